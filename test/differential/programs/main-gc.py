import gc
import sys
import weakref


class Node:
    def __del__(self):
        print('collected')


print(gc.isenabled(), gc.get_threshold(), gc.get_debug(), gc.callbacks)
gc.collect()
node = Node()
node.me = node
reference = weakref.ref(node, lambda _: print('weak callback'))
del node
print(reference() is not None)
print(gc.collect() > 0, reference(), gc.garbage)
x = object()
print(sys.getrefcount(x))
gc.freeze()
print(gc.get_freeze_count() > 0)
