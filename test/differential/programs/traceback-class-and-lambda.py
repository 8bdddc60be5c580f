class Meta(type):
    def __new__(cls, name, bases, body):
        if name == 'Bad':
            raise TypeError(f'no {name}')
        return super().__new__(cls, name, bases, body)


class Good(metaclass=Meta):
    rows = [(lambda i: i * 2)(i) for i in range(3)]


print(Good.rows)
try:
    [(lambda i: 1 // (2 - i))(i) for i in range(5)]
except ZeroDivisionError:
    import traceback

    traceback.print_exc()


class Bad(metaclass=Meta):
    pass
