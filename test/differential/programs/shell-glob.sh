cd "$(mktemp -d)"; touch a1 a2 b1 .hidden 'sp ace' 'ü'; mkdir -p d/e; touch d/e/f
echo *; echo a?; echo [ab]1; echo *.none; echo .h*; printf '<%s>\n' s*
shopt -s nullglob extglob globstar dotglob
echo *.none; echo !(a*); echo **/f; echo *
shopt -u dotglob; case abc in a*) echo matched;; *) echo no;; esac
cd /; rm -r "$OLDPWD"
