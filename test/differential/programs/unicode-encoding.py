import codecs
import locale
import os
import sys

print(sys.stdin.encoding, sys.stdout.encoding, sys.stderr.encoding)
print(sys.stdin.errors, sys.stdout.errors, sys.stderr.errors)
print(sys.getdefaultencoding(), sys.getfilesystemencoding(), sys.getfilesystemencodeerrors(), locale.getpreferredencoding())
print(locale.setlocale(locale.LC_ALL), locale.localeconv()['decimal_point'], locale.getlocale())
print(open('/dev/null').encoding, sys.flags.utf8_mode, os.fsencode('é\udcff'))
print(locale.setlocale(locale.LC_ALL, ''))
for name in ('latin-1', 'cp1252', 'utf-16', 'utf-7', 'shift_jis', 'punycode', 'rot13'):
    print(name, codecs.encode('aé' if name != 'rot13' else 'ab', name, 'replace'))
