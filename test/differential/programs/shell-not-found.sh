no-such-program-anywhere --help
echo $?
/nonexistent/program
echo $?
exec also-not-there
