cd "$(mktemp -d)"
printf '#!/bin/bash\necho "bash: ${0##*/} $# $1"; exit 5\n' > a; printf '#!/usr/bin/env python3\nimport sys; print(sys.argv)\n' > b
chmod +x a b; ./a 'x y'; echo $?; ./b q
PATH=$PWD:$PATH; a; hash -r; type -t a b echo if nosuch; command -v cd
cd /; rm -r "$OLDPWD"
