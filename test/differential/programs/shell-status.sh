true; echo $?
false; echo $?
(exit 42); echo $?
! true; echo $?
{ bash -c 'kill -9 $$'; } 2> /dev/null; echo $?
{ (kill -TERM $BASHPID); } 2>/dev/null; echo $?
[[ a == b ]]; echo $?
test 1 -lt 2; echo $?
((0)); echo $?
exit 300
