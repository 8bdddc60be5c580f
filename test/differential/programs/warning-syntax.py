value = 1
if value is 1:
    print('identical')
assert (value, 'always true')
text = '\d'
print(len(text))
