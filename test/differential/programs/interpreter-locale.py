import locale
import sys
import time

print(locale.getlocale(), locale.getpreferredencoding(), locale.setlocale(locale.LC_ALL), locale.localeconv()['decimal_point'])
print(sys.getfilesystemencoding(), sys.getfilesystemencodeerrors(), sys.getdefaultencoding(), sys.flags.utf8_mode, locale.getencoding())
print(locale.setlocale(locale.LC_ALL, ''), time.strftime('%A', time.gmtime(0)), time.tzname, 'größe'.upper(), f'{12345.678:n}')
print(locale.strxfrm('a') < locale.strxfrm('B'), ascii('ü'.encode(sys.getfilesystemencoding())))
