import warnings

print(warnings.filters[0][0], len(warnings.filters))
for row in warnings.filters:
    print(row[0], row[1], row[2].__name__, row[3], row[4])
warnings.simplefilter('error')
warnings.warn('now an error', UserWarning)
