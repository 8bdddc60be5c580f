"""Sends a range of a file over a socket as frames of data (src/transport/frames.ts); the kernel moves the bytes.

    send_file.py START END PIECE TYPE

Descriptors: 3 is the file, 4 the socket, which another process has too, and which does not block. PIECE is the most
that a frame has, in bytes, and TYPE the type of them all.

Exit codes: 0; 3 the file has become shorter, and a frame is not whole; 4 the other end has gone.
"""
import os
import select
import socket
import struct
import sys

FILE = 3
SOCKET = 4
# As much as may be (net.core.wmem_max, of which the kernel makes twice as much, socket(7)): the fewer and the larger are
# the pieces of whoever reads.
BUFFER = 1 << 20


def main(start: int, end: int, piece: int, kind: int) -> None:
    with socket.socket(fileno=os.dup(SOCKET)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    ready = select.poll()
    ready.register(SOCKET, select.POLLOUT)

    def send(size: int, some) -> None:
        sent = 0
        while sent < size:
            try:
                done = some(sent)
            except BlockingIOError:
                ready.poll()
                continue
            except (BrokenPipeError, ConnectionResetError):
                sys.exit(4)
            if done == 0:
                sys.exit(3)
            sent += done

    for at in range(start, end, piece):
        size = min(piece, end - at)
        header = struct.pack('>IB', size, kind)
        send(len(header), lambda sent: os.write(SOCKET, header[sent:]))
        send(size, lambda sent: os.sendfile(SOCKET, FILE, at + sent, size - sent))


main(*map(int, sys.argv[1:]))
