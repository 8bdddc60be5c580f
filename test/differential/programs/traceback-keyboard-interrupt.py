def wait():
    print('waiting', flush=True)
    raise KeyboardInterrupt


wait()
