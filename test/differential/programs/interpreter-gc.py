import gc
import os

print(gc.isenabled(), gc.get_threshold(), gc.get_debug(), gc.callbacks, gc.garbage)
print(gc.is_tracked({}), gc.is_tracked([]), gc.is_finalized(object()))
before = gc.get_stats()[2]['collections']
print(gc.collect() >= 0, gc.get_stats()[2]['collections'] - before, gc.garbage)
print(len(gc.get_objects()) > 1000, any(each is os.environ for each in gc.get_objects()))
print(any(each is globals() for each in gc.get_referrers(os)), any(each is print for each in gc.get_referents(__builtins__.__dict__)))
