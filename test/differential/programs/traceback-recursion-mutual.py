import sys

sys.setrecursionlimit(60)


def ping():
    pong()


def pong():
    ping()


ping()
