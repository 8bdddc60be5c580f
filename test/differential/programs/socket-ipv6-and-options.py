import socket

print(socket.inet_aton('127.0.0.1'), socket.inet_pton(socket.AF_INET6, '::1')[-1], socket.has_ipv6)
print(socket.getaddrinfo('127.0.0.1', 80, type=socket.SOCK_STREAM)[0][4], socket.htons(1))
one = socket.socket()
one.bind(('127.0.0.1', 0))
one.listen()
two = socket.socket()
try:
    two.bind(one.getsockname())
except OSError as error:
    print(error)
two.setblocking(False)
two.accept()
