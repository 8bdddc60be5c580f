import socket

print(socket.gethostbyname('localhost'))
with socket.create_server(('localhost', 0)) as server:
    print(server.getsockname()[0])
