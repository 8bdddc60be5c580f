"""Times what it is told to, one at a time, and does nothing else meanwhile.

A Node process of some size is a slow and uneven spawner and clock; this one is small, starts children by
posix_spawn (no copy of page tables), blocks until the answer is there, and is the same for every contestant.

First line of stdin: {"uid": N, "contestants": {name: {"argv", "env"} or {"host", "port", "request", "until"?}}}. Then a
name a line; each is answered by a line {"began", "ended", "said"}: nanoseconds of CLOCK_MONOTONIC, and what was
answered. With "until" the clock stops when this text has come; the answer is read to its end all the same.
"""
import json
import os
import socket
import sys
import time

ANSWER_TIMEOUT = 60


def start(contestant):
    read, write = os.pipe()
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, '/dev/null', os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, write, 1),
        (os.POSIX_SPAWN_DUP2, write, 2),
    ]
    argv, env = contestant['argv'], contestant['env']
    began = time.monotonic_ns()
    pid = os.posix_spawn(argv[0], argv, env, file_actions=actions)
    os.waitpid(pid, 0)
    ended = time.monotonic_ns()
    os.close(write)
    printed = os.read(read, 65536).decode()
    os.close(read)
    return began, ended, printed


def ask(contestant):
    connection = contestant.get('connection')
    if connection is None:
        address = (contestant['host'], contestant['port'])
        connection = contestant['connection'] = socket.create_connection(address, ANSWER_TIMEOUT)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        contestant['bytes'] = contestant['request'].encode()
    until = contestant.get('until', '').encode()
    ended = None
    began = time.monotonic_ns()
    connection.sendall(contestant['bytes'])
    answer = b''
    while not whole(answer):
        data = connection.recv(65536)
        if not data:
            raise OSError('the server closed the connection')
        answer += data
        if ended is None and until and until in answer:
            ended = time.monotonic_ns()
    if not until:
        ended = time.monotonic_ns()
    return began, ended or 0, answer.split(b'\r\n\r\n', 1)[1].decode()


def whole(answer):
    head, separator, body = answer.partition(b'\r\n\r\n')
    if not separator:
        return False
    for line in head.split(b'\r\n'):
        name, _, value = line.partition(b':')
        if name.lower() == b'content-length':
            return len(body) >= int(value)
        if name.lower() == b'transfer-encoding':
            return body.endswith(b'\r\n0\r\n\r\n')
    raise OSError('an answer without a length: ' + head.decode())


plan = json.loads(sys.stdin.readline())
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(plan['uid'])
    os.setuid(plan['uid'])
os.chdir('/')
contestants = plan['contestants']
for line in sys.stdin:
    contestant = contestants[line.strip()]
    try:
        began, ended, said = start(contestant) if 'argv' in contestant else ask(contestant)
    except OSError as error:
        began, ended, said = 0, 0, str(error)
    print(json.dumps({'began': began, 'ended': ended, 'said': said}), flush=True)
