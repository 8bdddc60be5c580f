import re
import string
import unicodedata

print(unicodedata.normalize('NFD', 'é').encode(), unicodedata.name('漢'), unicodedata.category('😀'))
print('ß'.upper(), 'İ'.lower().encode(), 'ΑΣ'.lower(), 'ﬀ'.casefold())
print(re.findall(r'\w+', 'naïve größe 漢字 x_1'), re.sub(r'(?i)É', '-', 'éÉ'))
print(f'{"漢":>5}|{"é":^5}|{1234567.891:,.2f}|{255:#x}|{0.1:.20f}', string.ascii_letters[:3])
