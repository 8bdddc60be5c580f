env | grep -vE '^(SHLVL|_|PWD|OLDPWD)=' | sort
echo "$# $- ${0} ${BASH##*/} $IFS" | cat -A
umask; ulimit -c; [[ -t 0 || -t 1 || -t 2 ]] || echo 'no terminal'
set -o | grep -E 'errexit|monitor|history'
shopt -o posix; trap
