import multiprocessing


def fails(n):
    if n == 2:
        raise ValueError(f'job {n}')
    return n


if __name__ == '__main__':
    with multiprocessing.get_context('fork').Pool(2) as pool:
        print(pool.apply(fails, (1,)))
        try:
            pool.map(fails, range(4), chunksize=1)
        except ValueError as error:
            print(repr(error))
            print('line 6, in fails' in str(error.__cause__))
        pool.map(fails, [2])
