import sqlite3

connection = sqlite3.connect(':memory:')
connection.execute('create table t (id integer primary key, name text, data blob)')
with connection:
    connection.executemany('insert into t (name, data) values (?, ?)', [('ä', b'\x00'), ('b', None)])
print(connection.execute('select * from t order by name').fetchall(), connection.total_changes)
connection.create_function('twice', 1, lambda x: x * 2)
print(connection.execute('select twice(21), upper("x"), json_extract(\'{"a":5}\', "$.a")').fetchone())
try:
    connection.execute('insert into t (id) values (1)')
except sqlite3.IntegrityError as error:
    print(error)
connection.execute('select * from missing')
