def cleanup():
    raise RuntimeError('cleanup failed too')


try:
    try:
        int('seven')
    finally:
        {}['missing']
except KeyError:
    cleanup()
