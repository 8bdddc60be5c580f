import sys

# Debian's own is behind a link to /etc, which a run does not see.
names = sorted(set(sys.modules) - {'sitecustomize'})
print(names)
print({name: sorted(vars(sys.modules[name])) for name in names if name not in ('sys', '__main__')})
print(sorted(vars(sys)))
print({name: repr(sys.modules[name].__spec__) for name in names})
print({name: sys.modules[name].__dict__.get('__file__') for name in names})
