path=/usr/local/lib/file.tar.gz
echo "${path##*/} ${path%.*} ${path%%.*} ${path/local/LOCAL} ${path^^} ${#path} ${path:5:5}"
echo "${missing:-d} ${missing:=set} $missing ${path:+yes}"
text='a  b   c'; echo $text; echo "$text"; set -- $text; echo $# "$3"
echo {a..e}{1..2} {01..10..3}
echo "ünï${#text} ${text// /_} ${text@Q}"
: "${required:?must be given}"
echo never
