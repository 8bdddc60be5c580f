for n in 3 1 2; do (sleep 0.0$n; exit "$n") & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid"; echo "status $?"; done
(sleep 0.02; echo late) &
wait
echo "jobs: $(jobs | wc -l)"
sleep 10 & kill $!; wait $! 2>/dev/null; echo $?
wait 999999; echo $?
