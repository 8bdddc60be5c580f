diff <(printf 'a\nb\n') <(printf 'a\nc\n'); echo $?
echo data > >(cat >&2); wait $!
while read -r line; do echo "got $line"; done < <(seq 3)
paste <(seq 3) <(seq 4 6)
