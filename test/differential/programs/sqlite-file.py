import os
import pathlib
import sqlite3
import threading

path = pathlib.Path('differential_sqlite_file.db')
try:
    connection = sqlite3.connect(path, timeout=5)
    print(connection.execute('pragma journal_mode=wal').fetchone())
    connection.execute('create table t (n integer)')
    connection.commit()

    def fill(start):
        mine = sqlite3.connect(path, timeout=10)
        for n in range(start, start + 10):
            with mine:
                mine.execute('insert into t values (?)', (n,))
        mine.close()

    threads = [threading.Thread(target=fill, args=(n * 10,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(connection.execute('select count(*), sum(n) from t').fetchone(), os.path.exists(f'{path}-wal'))
    locked = sqlite3.connect(path, timeout=0, isolation_level=None)
    connection.execute('begin immediate')
    try:
        locked.execute('begin immediate')
    except sqlite3.OperationalError as error:
        print(error)
    connection.rollback()
    locked.close()
    connection.close()
    print(os.path.exists(f'{path}-wal'))
finally:
    for suffix in ('', '-wal', '-shm'):
        pathlib.Path(f'{path}{suffix}').unlink(missing_ok=True)
