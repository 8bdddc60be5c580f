d=$(mktemp -d); mkfifo "$d/pipe"
echo through > "$d/pipe" &
cat "$d/pipe"; wait; echo $?
[[ -p $d/pipe ]] && echo fifo; stat -c '%F %a' "$d/pipe"
rm -r "$d"
