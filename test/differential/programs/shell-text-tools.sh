cd "$(mktemp -d)"
printf 'name,age\nbob,30\nann,25\ncid,41\n' > text.csv
awk -F, 'NR > 1 { sum += $2; print NR, $1 } END { printf "mean %.2f\n", sum / (NR - 1) }' text.csv
sed -n -e '2,3p' -e 's/bob/BOB/p' text.csv
sed -E 's/([a-z]+),([0-9]+)/\2:\1/;1d' text.csv
sort -t, -k2 -n text.csv | cut -d, -f1 | head -3
grep -nE '^(ann|cid)' text.csv; grep -c , text.csv; grep nothing text.csv; echo $?
tr 'a-z' 'n-za-m' < text.csv | rev | nl -ba
wc text.csv; md5sum < text.csv; base64 text.csv; od -c text.csv | head -2
join <(echo 1 a) <(echo 1 b); comm <(seq 3) <(seq 2 4); fold -w 3 <<< abcdefg; expr 3 \* 4
cd / && rm -r "$OLDPWD"
