import os

with open(__file__) as file:
    print(file.read())
print(os.path.exists(__file__))
