printf 'one two three\nback\\slash\nlast without newline' | {
  read -r a b; echo "$a|$b"
  read c; echo "$c"
  read -r d; echo "$d $?"
}
IFS=: read -r user _ shell <<< 'root:x:/bin/sh'; echo "$user $shell"
read -r -t 1 nothing; echo "status $?"
read -r -n 3 three <<< abcdef; echo "$three"
IFS=, read -ra fields <<< 'x,y,,z'; echo "${#fields[@]}"
