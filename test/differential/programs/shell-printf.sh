printf '%q ' 'a b' "it's" '$x' '' $'new\nline' 'é'; echo
printf '%5d|%-5s|%05.2f|%x|%o|%c|%b|%%\n' 42 ab 3.14159 255 8 xyz 'tab\there'
printf '%s-' a b c; echo
printf -v variable '%03d' 7; echo "$variable"
printf '\x41\u00e9\U1F600\101\n'
printf '%d\n' notanumber; echo $?
printf 'binary \xff\xfe\n'
