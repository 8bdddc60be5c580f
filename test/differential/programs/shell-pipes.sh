printf '%s\n' pear apple fig apple | sort | uniq -c | sed 's/^ *//' | sort -rn
seq 1 20 | grep -v 1 | tail -n 3 | tac | paste -sd,
false | true; echo "${PIPESTATUS[@]}"
set -o pipefail; false | true; echo $?
echo out | tee /dev/stderr | tr a-z A-Z
