name='wörld'
cat <<END
hello $name $((1 + 2)) $(echo sub)
END
cat <<'END'
literal $name
END
cat <<-END
	tab stripped
END
cat <<< "here string"
bash <<'END'
echo "inner $BASH_SUBSHELL"; exit 3
END
echo $?
