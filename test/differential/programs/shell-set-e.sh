set -eu
echo before
false || echo guarded
if false; then echo never; fi
(exit 4) && echo never
echo still
false
echo never
