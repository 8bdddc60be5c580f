import array
import os
import socket
import tempfile

with tempfile.TemporaryDirectory() as directory:
    path = f'{directory}/socket'
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    if os.fork() == 0:
        client = socket.socket(socket.AF_UNIX)
        client.connect(path)
        read, write = os.pipe()
        os.write(write, b'through a passed descriptor')
        socket.send_fds(client, [b'fd'], [read])
        os._exit(0)
    connection, _ = server.accept()
    message, descriptors, _, _ = socket.recv_fds(connection, 10, 1)
    print(message, os.read(descriptors[0], 100))
    pid, uid, gid = array.array('i', connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    print(pid == os.wait()[0], uid == os.getuid(), gid == os.getgid())
abstract = socket.socket(socket.AF_UNIX)
abstract.bind(b'\0nox-differential-%d' % os.getpid())
left, right = socket.socketpair()
left.send(b'pair')
print(right.recv(10), abstract.getsockname()[:5])
