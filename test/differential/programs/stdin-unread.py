print('does not read')
