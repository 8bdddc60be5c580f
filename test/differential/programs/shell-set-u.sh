set -u
echo "${undefined:-default}"
echo "$undefined"
echo never
