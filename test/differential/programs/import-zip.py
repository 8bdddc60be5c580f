import io
import sys
import tempfile
import zipfile

with tempfile.NamedTemporaryFile(suffix='.zip') as file:
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('zipped.py', 'def f():\n    return __name__\n')
    file.flush()
    sys.path.insert(0, file.name)
    import zipped

    print(zipped.f(), type(zipped.__loader__).__name__)
