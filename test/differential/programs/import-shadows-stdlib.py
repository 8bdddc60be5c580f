import colorsys

print(colorsys.WHO)
