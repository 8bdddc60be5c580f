TZ=UTC date -d @86400 '+%F %T %Z'; TZ=America/New_York date -d @0 +%c
printf 'b\nA\na\nB\n' | sort; printf 'é\nz\n' | sort; LC_ALL=C sort <<< $'b\nA'
echo 'größe' | wc -m; locale | sort; locale charmap
bc <<< '2^100' 2>/dev/null || echo $((2 ** 62)); numfmt --to=iec 1048576; factor 1001
