"""Works on trees of files that a live run may change at any moment, for confined.ts.

    count TOP PATH MAX                 prints the bytes on disk and the number of entries below a directory; of those
                                       that are more than MAX only so many
    copy TOP PATH TO NAME LIMIT PRICE  copies what is in a directory into the directory NAME of TO, which is made; NAME ''
                                       is TO itself. Prints what the copy takes of the limit: the bytes on disk, or
                                       PRICE bytes for each entry, where that is more

PATH and NAME are in hexadecimal, since they may be any bytes. Every directory is opened from its parent's descriptor
and no link is followed; nothing is opened that could wait; what has gone or changed meanwhile is passed over. du, find
and cp are no alternative: the first two end with SIGABRT when directories are swapped under them (fts(3) of gnulib), cp
waits in a FIFO that takes a file's place, and cannot go deeper than PATH_MAX.

Exit codes: 0; 3 LIMIT bytes were not enough; 4 the disk is full; 5 PATH or NAME has
become something else meanwhile; 1 anything else, with the reason on stderr.
"""
import ctypes
import errno
import fcntl
import os
import re
import resource
import stat
import sys

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# linux/fs.h
FICLONE = 0x40049409
# What a run brings about by changing names.
CHANGED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EEXIST, errno.ESTALE, errno.EISDIR)
FULL = (errno.ENOSPC, errno.EDQUOT)
TEMPORARY = re.compile(r'\.nox-[0-9a-f]{24}\.(tmp|redo)')
PIECE = 1 << 22
PATH_MAX = 4096
# A tree that is too deep to be looked into has more than anybody may have.
TOO_DEEP = 1 << 31


class OverLimit(Exception):
    pass


def open_below(top: str, path: bytes) -> int:
    fd = os.open(top, DIRECTORY)
    for name in filter(None, path.split(b'/')):
        below = os.open(name, DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    return fd


def next_entry(names):
    """None at the end, also of a directory that cannot be read any further."""
    try:
        return next(names, None)
    except OSError:
        return None


def longer(path, name: str):
    """None for one by which the kernel finds nothing: those of a deep tree take memory by the square of its depth."""
    return None if path is None or len(path) + len(name) >= PATH_MAX else f'{path}/{name}'


class Count:
    def __init__(self, top: int, most: int):
        own = os.fstat(top)
        self.device = own.st_dev
        self.blocks = own.st_blocks
        self.most = most
        self.entries = 0
        self.linked = set()
        self.levels = [(top, os.scandir(top))]

    def run(self) -> None:
        while self.levels and self.entries <= self.most:
            fd, names = self.levels[-1]
            entry = next_entry(names)
            if entry is None:
                names.close()
                os.close(fd)
                self.levels.pop()
                continue
            try:
                self.add(fd, entry.name)
            except OSError as error:
                if error.errno not in CHANGED:
                    raise

    def add(self, fd: int, name: str) -> None:
        found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        is_directory = stat.S_ISDIR(found.st_mode)
        if found.st_dev != self.device:
            return
        # A further name of a file is another entry, with the same blocks.
        self.entries += 1
        if found.st_ino in self.linked:
            return
        if found.st_nlink > 1 and not is_directory:
            self.linked.add(found.st_ino)
        self.blocks += found.st_blocks
        if is_directory:
            self.enter(fd, name)

    def enter(self, fd: int, name: str) -> None:
        try:
            below = os.open(name, DIRECTORY, dir_fd=fd)
            try:
                self.levels.append((below, os.scandir(below)))
            except OSError:
                os.close(below)
                raise
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            self.entries += TOO_DEEP


class Copy:
    def __init__(self, source: int, target: int, limit: int, price: int):
        self.limit = limit
        self.price = price
        self.blocks = 0
        self.entries = 0
        own = os.fstat(source)
        self.device = own.st_dev
        self.target = target
        self.target_id = os.fstat(target)[1:3]
        # Of files with several names: the first, from the top.
        self.linked = {}
        self.levels = [(source, target, os.scandir(source), own, '')]

    def run(self) -> None:
        while self.levels:
            source, target, names, own, path = self.levels[-1]
            entry = next_entry(names)
            if entry is None:
                names.close()
                os.fchmod(target, stat.S_IMODE(own.st_mode))
                os.utime(target, ns=(own.st_atime_ns, own.st_mtime_ns))
                os.close(source)
                if target != self.target:
                    os.close(target)
                self.levels.pop()
                continue
            if path == '' and TEMPORARY.fullmatch(entry.name):
                continue
            try:
                self.add(source, target, entry.name, longer(path, entry.name))
            except OSError as error:
                if error.errno not in CHANGED:
                    raise

    @property
    def share(self) -> int:
        return max(self.blocks * 512, self.entries * self.price)

    def take(self, blocks: int) -> None:
        self.blocks += blocks
        self.entries += 1
        if self.share > self.limit:
            raise OverLimit

    def add(self, source: int, target: int, name: str, path: str) -> None:
        found = os.stat(name, dir_fd=source, follow_symlinks=False)
        if found.st_dev != self.device or found[1:3] == self.target_id:
            return
        if stat.S_ISREG(found.st_mode):
            self.add_file(source, target, name, path)
        elif stat.S_ISDIR(found.st_mode):
            below = os.open(name, DIRECTORY, dir_fd=source)
            self.take(found.st_blocks)
            os.mkdir(name, 0o700, dir_fd=target)
            into = os.open(name, DIRECTORY, dir_fd=target)
            self.levels.append((below, into, os.scandir(below), os.fstat(below), path))
        elif stat.S_ISLNK(found.st_mode):
            try:
                goal = os.readlink(name, dir_fd=source)
            except OSError as error:
                # It is no link any more.
                if error.errno == errno.EINVAL:
                    return
                raise
            self.take(8)
            os.symlink(goal, name, dir_fd=target)
        elif stat.S_ISFIFO(found.st_mode):
            self.take(0)
            os.mkfifo(name, stat.S_IMODE(found.st_mode), dir_fd=target)

    def add_file(self, source: int, target: int, name: str, path: str) -> None:
        fd = os.open(name, READ, dir_fd=source)
        try:
            own = os.fstat(fd)
            if not stat.S_ISREG(own.st_mode):
                return
            first = self.linked.get(own.st_ino)
            if first is not None:
                self.take(0)
                try:
                    os.link(first[1:], name, src_dir_fd=self.target, dst_dir_fd=target, follow_symlinks=False)
                    return
                except OSError as error:
                    # As a path it may be too long: then it becomes a file of its own.
                    if error.errno not in (errno.ENAMETOOLONG, errno.ENOENT):
                        raise
                    self.entries -= 1
            elif own.st_nlink > 1 and path is not None:
                self.linked[own.st_ino] = path
            self.take(own.st_blocks)
            out = os.open(name, CREATE, 0o600, dir_fd=target)
            try:
                copy_content(fd, out, own.st_size)
                os.fchmod(out, stat.S_IMODE(own.st_mode))
                os.utime(out, ns=(own.st_atime_ns, own.st_mtime_ns))
            finally:
                os.close(out)
        finally:
            os.close(fd)


def copy_content(fd: int, out: int, size: int) -> None:
    """Shares the blocks where the file system can; else copies what is no hole, of the size that it had."""
    try:
        fcntl.ioctl(out, FICLONE, fd)
        return
    except OSError as error:
        if error.errno in FULL:
            raise
    os.ftruncate(out, size)
    at = 0
    while at < size:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            # Only a hole is left.
            if error.errno == errno.ENXIO:
                return
            raise
        end = min(size, os.lseek(fd, at, os.SEEK_HOLE))
        while at < end:
            done = copy_piece(fd, out, at, min(PIECE, end - at))
            if done == 0:
                return
            at += done


def copy_piece(fd: int, out: int, at: int, size: int) -> int:
    try:
        return os.copy_file_range(fd, out, size, at, at)
    except OSError as error:
        # From one file system to another of a different type.
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    data = os.pread(fd, size, at)
    done = 0
    while done < len(data):
        done += os.pwrite(out, data[done:], at + done)
    return done


def main(what: str, top: str, path: str, *rest: str) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.umask(0)
    try:
        source = open_below(top, bytes.fromhex(path))
    except OSError as error:
        if error.errno in CHANGED:
            sys.exit(5)
        raise
    if what == 'count':
        count = Count(source, int(rest[0]))
        count.run()
        print(count.blocks * 512, count.entries)
        return
    to, name, limit, price = rest
    target = os.open(to, DIRECTORY)
    if name:
        try:
            os.mkdir(bytes.fromhex(name), 0o700, dir_fd=target)
            target = os.open(bytes.fromhex(name), DIRECTORY, dir_fd=target)
        except OSError as error:
            if error.errno in CHANGED:
                sys.exit(5)
            raise
    copy = Copy(source, target, int(limit), int(price))
    try:
        copy.run()
    except OverLimit:
        sys.exit(3)
    except OSError as error:
        if error.errno in FULL:
            sys.exit(4)
        raise
    # All of it is on disk before anybody is told that it is there.
    ctypes.CDLL(None).syncfs(target)
    print(copy.share)


main(*sys.argv[1:])
