import multiprocessing
from multiprocessing import shared_memory


def fill(name):
    block = shared_memory.SharedMemory(name)
    block.buf[:5] = b'hello'
    block.close()


if __name__ == '__main__':
    context = multiprocessing.get_context('fork')
    block = shared_memory.SharedMemory(create=True, size=1000)
    process = context.Process(target=fill, args=(block.name,))
    process.start()
    process.join()
    print(bytes(block.buf[:6]), process.exitcode)
    block.close()
    block.unlink()
    numbers = shared_memory.ShareableList([1, 'two', 3.0, None, True])
    print(list(numbers), numbers.count(1))
    numbers.shm.close()
    numbers.shm.unlink()
    try:
        shared_memory.SharedMemory(block.name)
    except FileNotFoundError as error:
        print(error.strerror)
