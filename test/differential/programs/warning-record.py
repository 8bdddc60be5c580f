import warnings

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    warnings.warn('one')
    open('/dev/null')
    warnings.warn_explicit('two', FutureWarning, 'somewhere.py', 12)
for warning in caught:
    print(warning.category.__name__, str(warning.message).split('name=')[-1], warning.lineno)
warnings.showwarning('shown', UserWarning, __file__, 1)
