import mmap
import os
import tempfile

with tempfile.TemporaryFile() as file:
    file.write(b'a' * mmap.PAGESIZE)
    file.flush()
    with mmap.mmap(file.fileno(), 0) as memory:
        memory[0:5] = b'hello'
        print(memory.find(b'lo'), memory[:6])
        memory.flush()
    file.seek(0)
    print(file.read(6))
shared = mmap.mmap(-1, 100)
pid = os.fork()
if pid == 0:
    shared[:4] = b'kid!'
    os._exit(0)
os.waitpid(pid, 0)
print(shared[:4])
memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ)
memory[0] = 1
