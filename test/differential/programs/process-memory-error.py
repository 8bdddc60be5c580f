import resource

_, hard = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (1 << 28, hard))
try:
    bytearray(1 << 31)
except MemoryError as error:
    print('caught', repr(error))
bytearray(1 << 32)
