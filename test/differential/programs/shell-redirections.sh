exec 3>&1 4>&2
{ echo out; echo err >&2; } 3>&1 1>&2 2>&3
echo both &>/dev/null
echo to-stderr >&2
echo dev-stderr > /dev/stderr
echo dev-stdout > /dev/stdout
echo dev-fd > /dev/fd/2
echo three >&3; echo four >&4
exec 3>&-; echo closed >&3; echo $?
cat < /nonexistent; echo $?
echo x > /dev/full; echo $?
ls /proc/self/fd
{ : > /usr/differential; } 2> /dev/null; echo $?
