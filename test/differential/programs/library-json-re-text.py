import collections
import difflib
import itertools
import json
import pprint
import re
import struct
import textwrap

print(json.dumps({'é': [1, 2.5, None, True, float('inf')], 'a': {'b': '\u2028'}}, sort_keys=True, indent=1))
print(re.split(r'(,)', 'a,b,,c'), re.fullmatch(r'(?P<y>\d{4})-(\d\d)', '2024-05').groupdict())
print(collections.Counter('mississippi').most_common(2), list(itertools.batched('abcde', 2)) if hasattr(itertools, 'batched') else '')
pprint.pprint({n: list(range(n)) for n in range(20, 25)}, width=70, compact=True)
print(textwrap.fill('word ' * 30, 40), ''.join(difflib.ndiff(['a\n'], ['b\n'])))
print(struct.pack('<IhQ', 1, -2, 3), struct.unpack('>f', b'\x40\x49\x0f\xdb'))
re.compile('(unclosed')
