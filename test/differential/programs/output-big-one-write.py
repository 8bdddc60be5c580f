import os

view = memoryview(b'0123456789abcdef' * 250_000)
while view:
    view = view[os.write(1, view) :]
