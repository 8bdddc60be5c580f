"""
Which pages a run writes, and that they are copied when it is made.

After a fork both sides share all pages, and whoever writes to one first takes a fault and copies it: some hundred
faults for a small program, and some hundred for the zygote, each of which costs more than the copy. Pages that are
pinned for input and output are copied by fork itself (a device would write to the wrong copy otherwise; Linux 5.12,
copy_present_page in mm/memory.c). Buffers that are registered with an io_uring are pinned (io_uring_register(2)); no
input or output is ever done with this one. Where it cannot be had (no io_uring, RLIMIT_MEMLOCK), all works as before.

What is written is learned from a rehearsal: a run of a small program, which looks at its own pages at its end
(nox_cells.py).
"""
import ctypes
import posix

from nox_calls import function, c_int, c_long, c_pointer

PAGE = 4096
# io_uring_setup(2), io_uring_register(2): the same numbers on all architectures.
SETUP, REGISTER, REGISTER_BUFFERS = 425, 427, 0
PARAMETERS = 120
# Each is copied for every run: more would cost more than it saves.
PAGES_MAX = 2048
MARK = b'pages of mine:'
# linux/fs.h, Documentation/admin-guide/mm/pagemap.rst
PRESENT, OF_A_FILE, EXCLUSIVE = 1 << 63, 1 << 61, 1 << 56

_setup = function('syscall', c_long, c_int, c_pointer, result=c_long)
_register = ctypes.CDLL(None, use_errno=True)['syscall']
_register.argtypes, _register.restype = [c_long, c_int, c_int, c_pointer, c_int], c_long
# What a small program does.
TYPICAL = b"""
import sys, os
class Shape:
    def __init__(self, sides):
        self.sides = sides
    def __repr__(self):
        return f'{type(self).__name__}({self.sides!r})'
def count(words):
    found = {}
    for word in words:
        found[word] = found.get(word, 0) + 1
    return sorted(found.items(), key=lambda pair: pair[1])
try:
    count(str(n % 7) for n in range(50))
    [Shape(n) for n in range(10)][100]
except IndexError as error:
    text = '%s: %s' % (type(error).__name__, error)
print(text, repr(Shape(3.5)), {1, 2}, b'x')
"""


class Memory:
    def __init__(self):
        # Made before the filter is on, which refuses it.
        parameters = ctypes.create_string_buffer(PARAMETERS)
        self.ring = _setup(SETUP, 1, ctypes.addressof(parameters))

    def pin(self, pages):
        """@param pages their addresses"""
        ranges = []
        here = writable()
        for count, page in enumerate(sorted(pages)):
            if count == PAGES_MAX:
                break
            if not any(start <= page < end for start, end in here):
                continue
            if ranges and sum(ranges[-1]) == page:
                ranges[-1] = ranges[-1][0], ranges[-1][1] + PAGE
            else:
                ranges.append((page, PAGE))
        # struct iovec. More than may be locked is refused as a whole (RLIMIT_MEMLOCK counts all zygotes of the user).
        buffers = (ctypes.c_uint64 * (2 * len(ranges)))(*[word for each in ranges for word in each])
        count = len(ranges)
        while count and _register(REGISTER, self.ring, REGISTER_BUFFERS, ctypes.addressof(buffers), count) < 0:
            count //= 2


def writable():
    """Private and writable ranges of addresses (proc_pid_maps(5))."""
    with open('/proc/self/maps') as maps:
        lines = [line.split(None, 2) for line in maps]
    return [tuple(int(end, 16) for end in each.split('-')) for each, mode, _ in lines if mode[:2] + mode[3] == 'rwp']


def tell_own_pages():
    """Writes the addresses of the pages that this process does not share with another to its standard output."""
    posix.write(1, MARK + b''.join(page.to_bytes(8, 'little') for page in own_pages()))


def own_pages():
    with open('/proc/self/pagemap', 'rb', buffering=0) as pagemap:
        for start, end in writable():
            pagemap.seek(start // PAGE * 8)
            entries = memoryview(pagemap.read((end - start) // PAGE * 8)).cast('Q')
            for at, entry in enumerate(entries):
                if entry & PRESENT and entry & EXCLUSIVE and not entry & OF_A_FILE:
                    yield start + at * PAGE
