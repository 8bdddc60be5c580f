grep -E '^Sig(Ign|Blk|Pnd)' /proc/self/status
trap
python3 -c 'import signal; print(signal.getsignal(signal.SIGPIPE))'
yes | head -n 1; echo "${PIPESTATUS[@]}"
