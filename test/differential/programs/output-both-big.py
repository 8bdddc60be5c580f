import sys
import threading


def fill(stream, letter):
    for n in range(3000):
        stream.write(f'{n} ' + letter * 500 + '\n')
    stream.flush()


threads = [threading.Thread(target=fill, args=row) for row in ((sys.stdout, 'o'), (sys.stderr, 'é'))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.exit(1)
