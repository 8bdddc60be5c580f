cd "$(mktemp -d)"
echo 'echo hi' > script; chmod 644 script
./script; echo $?
chmod 755 script; mkdir directory
./directory; echo $?
. ./script
printf '#!/nonexistent/interpreter\n' > bad; chmod 755 bad
./bad; echo $?
cd / && rm -r "$OLDPWD"
/usr
