head -c 3000000 /dev/zero | tr '\0' x
head -c 1000000 /dev/zero | tr '\0' y >&2
