for ((n = 0; n < 20000; n++)); do echo "line $n"; done
