try:
    int('seven')
except ValueError:
    raise LookupError('only this one shows') from None
