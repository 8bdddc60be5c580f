cd "$(mktemp -d)"; mkdir -p x/y; touch x/1.txt x/y/2.txt x/y/'3 4.txt' x/5.log
find . -name '*.txt' | sort
find . -type f -print0 | sort -z | xargs -0 -n 2 echo args:
find . -name '*.txt' -exec basename {} \; | sort
seq 5 | xargs -I{} echo 'n={}'
seq 4 | xargs -P 4 -n 1 sh -c 'exit 0'; echo $?
echo x | xargs false; echo $?; echo x | xargs nosuchprogram; echo $?
find . -type f -delete; find . -depth -type d | sort; find /nonexistent; echo $?
cd /; rm -r "$OLDPWD"
