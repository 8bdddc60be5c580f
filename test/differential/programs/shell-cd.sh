d=$(mktemp -d); mkdir -p "$d/a/b c"; cd "$d/a/b c"; echo "${PWD#"$d"}"; cd ..; cd - > /dev/null; echo "${PWD##*/}"
pushd "$d" > /dev/null; popd > /dev/null; basename "$(pwd -P)"
ln -s a "$d/link"; cd "$d/link"; echo "${PWD##*/} $(basename "$(pwd -P)")"
cd /nonexistent; echo $?
cd ~; pwd; echo "$HOME $OLDPWD" | sed "s:$d:D:"
rm -r "$d"
