import dbm.dumb
import shelve
import tempfile

with tempfile.TemporaryDirectory() as directory:
    with shelve.open(f'{directory}/shelf', writeback=True) as shelf:
        shelf['a'] = [1, 2]
        shelf['a'].append(3)
    with shelve.open(f'{directory}/shelf') as shelf:
        print(dict(shelf))
    with dbm.dumb.open(f'{directory}/dumb', 'c') as database:
        database['k'] = 'v'
        print(database['k'], database.keys())
    with shelve.open(f'{directory}/shelf') as shelf:
        shelf['missing']
