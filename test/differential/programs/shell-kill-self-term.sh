echo before
kill $$
sleep 5
