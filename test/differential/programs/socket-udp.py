import socket

with socket.socket(type=socket.SOCK_DGRAM) as server, socket.socket(type=socket.SOCK_DGRAM) as client:
    server.bind(('127.0.0.1', 0))
    server.settimeout(5)
    client.sendto(b'datagram', server.getsockname())
    data, address = server.recvfrom(100)
    print(data, address[0], server.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_DGRAM)
    server.settimeout(0.01)
    server.recvfrom(100)
