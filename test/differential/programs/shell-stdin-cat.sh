cat -A
