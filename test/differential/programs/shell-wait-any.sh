(sleep 1; exit 5) &
sleep 10 &
wait -n; echo "first: $?"
kill %2; wait; echo "$?"
{ sleep 0.05; echo 'from the background'; } &
wait -f $!; echo "$?"
