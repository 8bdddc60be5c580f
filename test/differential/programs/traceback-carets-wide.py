werte = {'größe': 'ä', '漢字': None}
summe = len('ааа') + werte['漢字'] + len('漢字漢字') * (1 - 2)
