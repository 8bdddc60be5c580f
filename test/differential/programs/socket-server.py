import socket
import socketserver
import threading


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line.upper())


with socketserver.ThreadingTCPServer(('127.0.0.1', 0), Handler) as server:
    threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01}, daemon=True).start()
    for n in range(3):
        with socket.create_connection(server.server_address, timeout=5) as client:
            client.sendall(b'hello %d\n' % n)
            print(client.makefile().readline(), end='')
    server.shutdown()
