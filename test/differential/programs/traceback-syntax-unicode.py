größe = 1
naïve = größe ++ = 'каша'  # 漢字 before and after
