import os
import select
import selectors

read, write = os.pipe()
print(select.select([read], [write], [], 0) == ([], [write], []))
os.write(write, b'x')
poll = select.poll()
poll.register(read, select.POLLIN)
print(poll.poll(1000) == [(read, select.POLLIN)])
epoll = select.epoll()
epoll.register(read, select.EPOLLIN | select.EPOLLET)
print(epoll.poll(1) == [(read, select.EPOLLIN)], epoll.poll(0))
with selectors.DefaultSelector() as selector:
    selector.register(read, selectors.EVENT_READ, 'data')
    print([key.data for key, _ in selector.select(1)], type(selector).__name__)
os.close(write)
print(os.read(read, 10), os.read(read, 10), poll.poll(0) == [(read, select.POLLHUP)])
os.set_blocking(read, False)
other_read, other_write = os.pipe2(os.O_NONBLOCK)
os.read(other_read, 1)
