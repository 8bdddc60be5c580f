import os
import tempfile

with tempfile.TemporaryDirectory() as directory:
    for name in (b'\xff\xfe', 'é漢😀'.encode(), b'with\nnewline', b' leading space', b'-dash', b"quote'\""):
        with open(os.path.join(directory.encode(), name), 'wb') as file:
            file.write(name)
    for name in sorted(os.listdir(directory)):
        print(ascii(name), os.path.getsize(os.path.join(directory, name)))
    print(sorted(os.listdir(directory.encode())))
    try:
        open(os.path.join(directory, 'x' * 256), 'w')
    except OSError as error:
        print(error.strerror)
