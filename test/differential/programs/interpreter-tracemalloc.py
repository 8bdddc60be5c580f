import sys
import tracemalloc

print(tracemalloc.is_tracing(), tracemalloc.get_traceback_limit())
tracemalloc.start(3)
block = [bytes(1000) for _ in range(10)]
print(tracemalloc.get_object_traceback(block[0])[-1].lineno, tracemalloc.get_traced_memory()[0] > 10_000)
tracemalloc.stop()
print(sys.getrefcount(block), sys.getswitchinterval())
