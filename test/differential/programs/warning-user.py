import warnings


def old():
    warnings.warn('old() is deprecated', DeprecationWarning, stacklevel=2)


warnings.warn('look out')
old()
old()
for _ in range(3):
    warnings.warn('only once from one line', RuntimeWarning)
warnings.warn('never shown', ImportWarning)
