printf 'name,age\nbob,30\nann,25\ncid,41\n' > /tmp/differential-text.csv
awk -F, 'NR > 1 { sum += $2; print NR, $1 } END { printf "mean %.2f\n", sum / (NR - 1) }' /tmp/differential-text.csv
sed -n -e '2,3p' -e 's/bob/BOB/p' /tmp/differential-text.csv
sed -E 's/([a-z]+),([0-9]+)/\2:\1/;1d' /tmp/differential-text.csv
sort -t, -k2 -n /tmp/differential-text.csv | cut -d, -f1 | head -3
grep -nE '^(ann|cid)' /tmp/differential-text.csv; grep -c , /tmp/differential-text.csv; grep nothing /tmp/differential-text.csv; echo $?
tr 'a-z' 'n-za-m' < /tmp/differential-text.csv | rev | nl -ba
wc /tmp/differential-text.csv; md5sum < /tmp/differential-text.csv; base64 /tmp/differential-text.csv; od -c /tmp/differential-text.csv | head -2
join <(echo 1 a) <(echo 1 b); comm <(seq 3) <(seq 2 4); fold -w 3 <<< abcdefg; expr 3 \* 4
rm /tmp/differential-text.csv
