read -r first
echo "first: $first"
mapfile -t rest
echo "${#rest[@]} more, last: ${rest[-1]}"
cat | wc -c
