cd "$(mktemp -d)"; mkdir -p src/deep; seq 1000 > src/numbers; echo text > src/deep/file
tar czf a.tgz src; tar tzf a.tgz | sort; mkdir out; tar xzf a.tgz -C out; diff -r src out/src && echo identical
gzip -k src/numbers; gzip -dc src/numbers.gz | cmp - src/numbers && echo same; gzip -t src/numbers.gz; echo $?
echo broken > bad.gz; gzip -d bad.gz; echo $?
tar xf /nonexistent.tar; echo $?
sha256sum src/numbers | cut -c1-16; split -l 400 src/numbers part-; wc -l part-*
cd /; rm -r "$OLDPWD"
