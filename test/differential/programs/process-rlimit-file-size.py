import resource
import tempfile

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with tempfile.TemporaryFile(buffering=0) as file:
    print(file.write(b'x' * 2000))
    file.write(b'y')
