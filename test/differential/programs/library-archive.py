import bz2
import gzip
import io
import lzma
import os
import shutil
import tarfile
import tempfile
import zipfile

with tempfile.TemporaryDirectory() as directory:
    os.makedirs(f'{directory}/tree/deep')
    for name in ('a.txt', 'deep/b.txt'):
        with open(f'{directory}/tree/{name}', 'w') as file:
            file.write(name * 100)
    os.symlink('a.txt', f'{directory}/tree/link')
    with tarfile.open(f'{directory}/t.tar.gz', 'w:gz') as archive:
        archive.add(f'{directory}/tree', 'tree')
    with tarfile.open(f'{directory}/t.tar.gz') as archive:
        print(sorted((m.name, m.size, m.issym()) for m in archive))
        archive.extractall(f'{directory}/out', **({'filter': 'data'} if hasattr(tarfile, 'data_filter') else {}))
    print(sorted(os.listdir(f'{directory}/out/tree')), os.readlink(f'{directory}/out/tree/link'))
    shutil.make_archive(f'{directory}/z', 'zip', f'{directory}/tree')
    with zipfile.ZipFile(f'{directory}/z.zip') as archive:
        print(sorted(archive.namelist()), archive.read('a.txt')[:10], archive.testzip())
for module in (gzip, bz2, lzma, __import__('zlib')):
    print(module.__name__, module.decompress(module.compress(b'x' * 1000)) == b'x' * 1000)
gzip.decompress(b'not gzip')
