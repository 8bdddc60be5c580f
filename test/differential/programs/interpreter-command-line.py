import sys

print(open('/proc/self/cmdline', 'rb').read())
print(open('/proc/self/comm').read(), open('/proc/thread-self/comm').read())
print(sys.orig_argv, sys.argv)
