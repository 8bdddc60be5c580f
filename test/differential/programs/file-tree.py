import fnmatch
import glob
import os
import pathlib
import shutil
import tempfile

root = pathlib.Path(tempfile.mkdtemp())
for name in ('a/x.py', 'a/b/y.py', 'a/b/z.txt', '.hidden', 'c.py'):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)
os.chdir(root)
print(sorted(glob.glob('**/*.py', recursive=True)), sorted(glob.glob('*')), sorted(map(str, pathlib.Path('.').rglob('*.txt'))))
print([(d, sorted(s), sorted(f)) for d, s, f in sorted(os.walk('.'))])
shutil.copytree('a', 'copy', ignore=shutil.ignore_patterns('*.txt'))
print(sorted(str(p) for p in pathlib.Path('copy').rglob('*')))
os.rename('c.py', 'd.py')
os.link('d.py', 'hard')
os.symlink('../outside', 'a/dangling')
print(os.stat('hard').st_nlink, os.path.samefile('d.py', 'hard'), os.path.lexists('a/dangling'), os.path.exists('a/dangling'))
shutil.move('hard', 'a/moved')
os.mkfifo('fifo')
os.chmod('d.py', 0o640)
print(oct(os.stat('d.py').st_mode), oct(os.stat('a').st_mode), oct(os.stat('fifo').st_mode))
print(sorted((e.name, e.is_dir(), e.is_symlink()) for e in os.scandir('.')), fnmatch.filter(['a1', 'b2'], 'a?'))
os.chdir('/')
shutil.rmtree(root)
print(root.exists())
os.rmdir('/tmp/differential-no-such-directory')
