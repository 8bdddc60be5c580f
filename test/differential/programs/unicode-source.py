# -*- coding: utf-8 -*-
größe, 変数, ﬁ = 3, '値', 'ligature'
print(größe, 変数, fi, 'ẞ😀\N{SNOWMAN}\u0301', '👨‍👩‍👧'.encode().hex(), len('👨‍👩‍👧'))


class Ünïcode:
    def __repr__(self):
        return 'Ü'


print(Ünïcode(), ascii('é漢😀'), repr('\x00\x7f\x85\u200b\ufeff'))
raise Exception('größe: 漢字 😀')
