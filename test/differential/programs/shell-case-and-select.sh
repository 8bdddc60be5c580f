for word in apple Banana 42 ''; do
  case $word in
    [a-z]*) echo lower ;;&
    a*) echo 'starts with a' ;;
    [0-9]*) echo number ;;
    '') echo empty ;;
    *) echo other ;;
  esac
done
select choice in red green; do echo "chose ${choice:-nothing} $REPLY"; [[ $choice ]] && break; done
until ((i >= 3)); do ((i++)); ((i == 2)) && continue; echo "$i"; done
[[ 'foo123' =~ ^([a-z]+)([0-9]+)$ ]] && echo "${BASH_REMATCH[@]}"
