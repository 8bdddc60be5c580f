timeout 0.1 sleep 5; echo $?
{ timeout -s KILL 0.1 sleep 5; } 2> /dev/null; echo $?
f=$(mktemp); flock "$f" echo locked; (flock 9; flock -n "$f" true; echo $?) 9> "$f"; rm "$f"
nohup true 2>/dev/null; echo $?
setsid -w bash -c 'exit 6'; echo $?
nice -n 5 bash -c 'echo niced'; env -i /bin/echo clean; stdbuf -oL echo line
