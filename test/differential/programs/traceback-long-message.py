raise ValueError('x' * 100_000 + 'end')
