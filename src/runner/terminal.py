"""
The terminal of a run: makes a pseudo-terminal, starts the program on it as the leader of its session, and carries bytes.

Arguments: rows, columns, the program and its arguments. Standard output: what the terminal shows. Standard input:
frames of a byte for the type, a 32-bit length, and so many bytes: 0 keys, 1 size (rows, columns, 16 bits each),
2 signal (a byte) for what is in the foreground, 3 end of input. Ends when the program ends, and as it: what still has
the terminal open in the background is not waited for.

It runs inside of the sandbox, as the program itself, and is trusted with nothing.
"""
import fcntl
import os
import select
import signal
import struct
import sys
import termios

PIECE = 65536
# What is left to read when the program has ended; something else may go on writing.
LAST_WORDS = 262144


def start(slave, argv):
    """In the child. Does not return."""
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for number in range(3):
        os.dup2(slave, number)
    # Python's own, which the program would inherit.
    for each in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(each, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)
    except FileNotFoundError:
        message, status = 'command not found: %s' % argv[0], 127
    except OSError as error:
        message, status = 'cannot execute %s: %s' % (argv[0], error.strerror), 126
    os.write(2, b'nox: %s\n' % os.fsencode(message))
    os._exit(status)


class Terminal:
    def __init__(self, rows, columns, argv):
        self.master, slave = os.openpty()
        self.resize(rows, columns)
        self.woken, wake = os.pipe()
        for descriptor in (self.master, self.woken, wake, 0, 1):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.program = os.fork()
        if self.program == 0:
            start(slave, argv)
        # The slave stays open, lest the terminal be at its end while the program has it closed.
        self.frames = self.keys = self.shown = b''
        self.hears = self.shows = True

    def resize(self, rows, columns):
        # The kernel tells the foreground: SIGWINCH.
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))

    def signal(self, number):
        try:
            os.killpg(os.tcgetpgrp(self.master) or self.program, number)
        except OSError:
            pass  # it has ended

    def serve(self):
        """@returns the wait status of the program"""
        while True:
            self.carry(None)
            pid, status = os.waitpid(self.program, os.WNOHANG)
            if pid != 0:
                break
        self.hears = False
        self.keys = b''
        left = LAST_WORDS
        while left > 0 and self.shows:
            piece = self.read(self.master)
            if not piece:
                break
            left -= len(piece)
            self.shown += piece
        self.shows = False
        while self.shown:
            self.carry(None)
        return status

    def carry(self, timeout):
        poll = select.poll()
        poll.register(self.woken, select.POLLIN)
        if self.hears and len(self.keys) < PIECE:
            poll.register(0, select.POLLIN)
        wanted = (select.POLLOUT if self.keys else 0) | (0 if self.shown else select.POLLIN)
        if self.shows and wanted:
            poll.register(self.master, wanted)
        if self.shown:
            poll.register(1, select.POLLOUT)
        for descriptor, events in poll.poll(timeout):
            if descriptor == self.woken:
                self.read(self.woken)
            elif descriptor == 0:
                self.hear()
            elif descriptor == 1:
                self.shown = self.write(1, self.shown)
            else:
                if events & (select.POLLIN | select.POLLHUP):
                    piece = self.read(self.master)
                    self.shown += piece or b''
                    self.shows = piece != b''
                if events & select.POLLOUT and self.shows:
                    self.keys = self.write(self.master, self.keys)

    def hear(self):
        piece = self.read(0)
        if piece is None:
            return
        self.hears = piece != b''
        self.frames += piece
        while len(self.frames) >= 5:
            kind, size = self.frames[0], int.from_bytes(self.frames[1:5], 'big')
            if len(self.frames) < 5 + size:
                return
            payload, self.frames = self.frames[5 : 5 + size], self.frames[5 + size :]
            if kind == 0:
                self.keys += payload
            elif kind == 1:
                self.resize(*struct.unpack('>HH', payload))
            elif kind == 2:
                self.signal(payload[0])
            else:
                self.keys += b'\x04'

    @staticmethod
    def read(descriptor):
        """None: nothing now. Empty: nothing any more."""
        try:
            return os.read(descriptor, PIECE)
        except BlockingIOError:
            return None
        except OSError:
            return b''  # EIO: hung up

    @staticmethod
    def write(descriptor, data):
        """@returns the rest"""
        try:
            return data[os.write(descriptor, data) :]
        except BlockingIOError:
            return data
        except OSError:
            return b''


def main():
    status = Terminal(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]).serve()
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        try:
            signal.signal(-code, signal.SIG_DFL)
        except OSError:
            pass  # SIGKILL and SIGSTOP
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)


main()
