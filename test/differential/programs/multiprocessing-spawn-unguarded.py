import multiprocessing

process = multiprocessing.get_context('spawn').Process(target=print, args=('never',))
process.start()
process.join()
print('exit code', process.exitcode)
