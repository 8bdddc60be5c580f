coproc UPPER { while read -r line; do echo "${line^^}"; done; }
pid=$UPPER_PID
echo hello >&"${UPPER[1]}"
read -r answer <&"${UPPER[0]}"
echo "$answer"
exec {fd}>&"${UPPER[1]}"-
exec {fd}>&-
wait "$pid"; echo $?
