declare -a list=(one 'two words' three)
declare -A map=([b]=2 [a]=1)
echo "${#list[@]} ${list[1]} ${list[@]:1:2} ${!list[@]}"
for key in $(printf '%s\n' "${!map[@]}" | sort); do echo "$key=${map[$key]}"; done
list+=(four); unset 'list[0]'; declare -p list
mapfile -t lines < <(seq 3); echo "${lines[*]}"
