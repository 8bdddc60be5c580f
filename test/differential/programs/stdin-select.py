import os
import select

total = 0
while True:
    ready, _, _ = select.select([0], [], [], 5)
    chunk = os.read(0, 4096)
    if not chunk:
        break
    total += len(chunk)
print(ready, total)
