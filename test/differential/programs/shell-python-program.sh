python3 - a b <<'END'
import sys
print(sys.argv, __name__, sys.path[0] == '')
raise ValueError('from standard input')
END
echo $?
python3 -c 'import sys; sys.exit("bye")'; echo $?
echo 'print(6 * 7)' | python3
python3 /nonexistent.py 2>&1 | sed 's/.*: can/can/'
python3 -c '1/0' 2>&1 | tail -n 1
