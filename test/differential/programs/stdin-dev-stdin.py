with open('/dev/stdin') as file:
    print(file.readline(), file.read().upper())
print(open('/dev/fd/0').read() == '')
