import sys

print(sys.argv[1:])
print(repr(sys.stdin.readline()))
print(repr(input()), repr(input('prompt> ')))
for number, line in enumerate(sys.stdin):
    print(number, repr(line))
input()
