import sys

print(sys.orig_argv)
print(sys.argv)
print(sys.orig_argv[1:] == sys.argv, type(sys.argv), type(sys.orig_argv))
