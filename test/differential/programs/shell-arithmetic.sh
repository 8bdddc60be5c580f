echo $((2 ** 40)) $((7 / 2)) $((-7 % 3)) $((0xff + 010)) $((1 << 4 | 3)) $((5 > 3 ? 1 : 2))
i=5; ((i++)); ((i *= 2)); echo $i; let 'i -= 1'; echo $i
for ((n = 0; n < 3; n++)); do printf '%d ' "$n"; done; echo
echo $((36#zz)) $((9223372036854775807 + 1))
echo $((1 / 0))
echo "status $?"
