# Started by test/sandbox/firewall.test.ts in namespaces of its own, with a directory of rulesets.
# Here is the machine; "out" is the rest of the world, with two addresses: 2 (anybody) and 3 (a friend).
set -u
PATH=/usr/sbin:/usr/bin:/sbin:/bin
dir=$1
mount -t tmpfs none /run
ip link set lo up
ip netns add out
ip link add cable type veth peer name cable netns out
ip address add 10.9.0.1/24 dev cable
ip address add fd09::1/64 dev cable nodad
ip link set cable up
for n in 2 3; do
  ip -n out address add 10.9.0.$n/24 dev cable
  ip -n out address add fd09::$n/64 dev cable nodad
done
ip -n out link set cable up

cat >"$dir/listen.py" <<'PYTHON'
import selectors, socket, sys
ready = selectors.DefaultSelector()
for port in (22, 8080, 8081):
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    ready.register(listener, selectors.EVENT_READ, "listener")
print("ready", flush=True)
while True:
    for key, _ in ready.select():
        if key.data == "listener":
            ready.register(key.fileobj.accept()[0], selectors.EVENT_READ, "connection")
        else:
            data = key.fileobj.recv(64)
            if data:
                key.fileobj.send(data)
            else:
                ready.unregister(key.fileobj)
                key.fileobj.close()
PYTHON
cat >"$dir/connect.py" <<'PYTHON'
import socket, sys
name, source, target, port = sys.argv[1:]
try:
    connection = socket.create_connection((target, int(port)), 3, (source, 0) if source else None)
    connection.send(b"x")
    print(f"{name}: {'open' if connection.recv(1) == b'x' else 'closed'}")
except OSError:
    print(f"{name}: closed")
PYTHON
cat >"$dir/session.py" <<'PYTHON'
import socket, sys
connection = socket.create_connection(("10.9.0.1", 22), 2)
print("session", flush=True)
sys.stdin.readline()
connection.send(b"y")
print(f"ssh session: {'open' if connection.recv(1) == b'y' else 'closed'}")
PYTHON
mkfifo "$dir/ready" "$dir/go"
python3 "$dir/listen.py" >"$dir/ready" &
listener=$!
read -r _ <"$dir/ready"
out() { ip netns exec out python3 "$dir/connect.py" "$@"; }
own() { python3 "$dir/connect.py" "$@"; }
report() { name=$1; shift; if "$@" >/dev/null 2>&1; then echo "$name: ok"; else echo "$name: failed"; fi; }
ssh() { out "$1 ssh" '' 10.9.0.1 22; out "$1 ssh6" '' fd09::1 22; }

nft 'table inet mine { chain input { type filter hook input priority filter; policy accept; tcp dport 9 drop; }; }'
ip netns exec out python3 "$dir/session.py" <"$dir/go" &
session=$!
exec 3>"$dir/go"
report 'check none' nft -c -f "$dir/none.nft"
report 'check some' nft -c -f "$dir/some.nft"
ssh before
out 'before nox' 10.9.0.2 10.9.0.1 8080
out 'before nox6' fd09::2 fd09::1 8080
nft -f "$dir/none.nft"
ssh none
out 'none nox' 10.9.0.2 10.9.0.1 8080
out 'none nox6' fd09::2 fd09::1 8080
own 'none own' '' 127.0.0.1 8080
own 'none own6' '' ::1 8080
own 'none own address' '' 10.9.0.1 8080
nft -f "$dir/some.nft"
report 'load again' nft -f "$dir/some.nft"
report 'one drop' test "$(nft list table inet nox | grep -c drop)" = 1
ssh some
out 'some nox' 10.9.0.2 10.9.0.1 8080
out 'some nox6' fd09::2 fd09::1 8080
out 'some friend' 10.9.0.3 10.9.0.1 8080
out 'some friend6' fd09::3 fd09::1 8080
out 'some other port' 10.9.0.2 10.9.0.1 8081
own 'some own' '' 127.0.0.1 8080
report 'load bad' nft -f "$dir/bad.nft"
ssh bad
out 'bad nox' 10.9.0.2 10.9.0.1 8080
out 'bad friend' 10.9.0.3 10.9.0.1 8080
report stop nft 'add table inet nox; delete table inet nox'
report 'stop again' nft 'add table inet nox; delete table inet nox'
report 'table gone' sh -c '! nft list table inet nox'
report 'other table' sh -c 'nft list table inet mine | grep -q "dport 9 drop"'
ssh after
out 'after nox' 10.9.0.2 10.9.0.1 8080
echo >&3
wait "$session"
kill "$listener"
echo 'end: ok'
