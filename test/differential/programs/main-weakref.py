import weakref


class Key:
    def __init__(self, name):
        self.name = name


a, b = Key('a'), Key('b')
data = weakref.WeakKeyDictionary({a: 1, b: 2})
values = weakref.WeakValueDictionary(a=a)
finalizer = weakref.finalize(b, print, 'b is gone')
print(sorted(key.name for key in data), len(values))
del b
print(len(data), finalizer.alive)
del a
print(len(values))
try:
    weakref.ref(5)
except TypeError as error:
    print(error)
weakref.finalize(Key, print, 'class gone at exit')
