def f(x):
    y = x * 2
    breakpoint()
    return y


f(21)
