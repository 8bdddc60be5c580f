import io
import re
import sys


class Resource:
    def __del__(self):
        print('in __del__', flush=True)
        raise OSError('failed in __del__')


# The text contains an address.
caught = io.StringIO()
sys.stderr = caught
Resource()
sys.stderr = sys.__stderr__
print(re.sub('0x[0-9a-f]+', '0x…', caught.getvalue()), file=sys.stderr)
