trap 'echo caught; exit 7' TERM
kill -TERM $$
sleep 5
