import socket
import threading

server = socket.create_server(('127.0.0.1', 0))


def serve():
    connection, address = server.accept()
    with connection:
        while data := connection.recv(1000):
            connection.sendall(data[::-1])


thread = threading.Thread(target=serve)
thread.start()
with socket.create_connection(server.getsockname(), timeout=5) as client:
    client.sendall(b'hello')
    print(client.recv(100), client.getpeername()[0], client.family.name)
    client.shutdown(socket.SHUT_WR)
    print(client.recv(100))
thread.join()
port = server.getsockname()[1]
server.close()
socket.create_connection(('127.0.0.1', port), timeout=5)
