import sys
import warnings

print(warnings.filters)
print(sys.modules['_warnings'].filters is warnings.filters, sys.modules['_warnings']._onceregistry, warnings.defaultaction)
print(warnings.showwarning.__module__, '__warningregistry__' in globals())
warnings.warn('old', DeprecationWarning)
warnings.warn('pending', PendingDeprecationWarning)
warnings.warn('import', ImportWarning)
for _ in range(2):
    warnings.warn('shown once')
