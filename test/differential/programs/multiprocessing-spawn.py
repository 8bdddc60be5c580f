import multiprocessing

print('top level of', __name__, flush=True)


class Job:
    def __init__(self, n):
        self.n = n

    def __call__(self):
        return self.n + 1, __name__, type(self).__module__


def work(job, connection):
    connection.send(job())
    connection.close()


if __name__ == '__main__':
    context = multiprocessing.get_context('spawn')
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(Job(41), theirs))
    process.start()
    print(ours.recv())
    process.join()
    print(process.exitcode)
