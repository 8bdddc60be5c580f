fact() { local n=$1; if ((n <= 1)); then echo 1; else echo $((n * $(fact $((n - 1))))); fi; }
fact 10
scope() { local x=inner; show; }
show() { echo "$x"; return 5; }
x=outer; scope; echo $?; show
swap() { declare -n a=$1 b=$2; local t=$a; a=$b; b=$t; }
p=1 q=2; swap p q; echo "$p $q"
nosuchfunction
echo $?
