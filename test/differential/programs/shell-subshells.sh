x=1; (x=2; cd /usr; echo "$x $PWD"); echo "$x"
y=$(echo inner; exit 3); echo "$y $?"
{ x=3; }; echo $x
echo "$BASH_SUBSHELL $(echo $BASH_SUBSHELL) $( (echo $BASH_SUBSHELL) )"
echo `echo backquotes \`echo nested\``
export E=exported; N=not; bash -c 'echo "$E|$N"'
[[ $$ == $(echo $$) ]] && echo same
