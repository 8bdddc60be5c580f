import sys

print('\ufefftext that begins with a byte order mark')
print('surrogate \udcff escapes to a raw byte')
sys.stdout.buffer.write(b'raw \xff\xfe \xe2\x82 cut \xed\xa0\x80 \xf0\x9f\x98\x80 \x00 nul\n')
sys.stdout.flush()
sys.stderr.write('\udcff is escaped here: \ud800 \u20ac\n')
print('carriage\rreturn\r\nform\x0cfeed\x1b[31mred\x1b[0m\x07 \u2028 \u2029 \x85')
