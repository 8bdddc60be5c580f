import os

print(os.getppid() > 0, os.getppid() == os.getppid())
