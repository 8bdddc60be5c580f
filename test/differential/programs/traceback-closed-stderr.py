import os

print('before', flush=True)
os.close(2)
raise ValueError('goes nowhere')
