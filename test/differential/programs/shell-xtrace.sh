set -x
x='a b'
echo "$x" > /dev/null
for n in 1 2; do : "$n"; done
PS4='trace> '
[[ $x == a* ]] && true
