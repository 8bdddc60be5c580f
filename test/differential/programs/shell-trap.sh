trap 'echo "exit trap, status $?"' EXIT
trap 'echo "err trap line $LINENO"' ERR
trap 'echo usr1' USR1
false
kill -USR1 $$
( trap 'echo sub' EXIT; exit 2 )
trap -p USR1
exit 6
