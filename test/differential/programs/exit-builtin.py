print(quit, exit)
exit(4)
