import sys

print(len(sys.argv), sys.argv[1:])
for argument in sys.argv[1:]:
    print(ascii(argument))
