source = 'def f():\n    raise ValueError("inside exec")\n\nf()\n'
try:
    exec(compile(source, '<generated>', 'exec'))
except ValueError:
    import traceback

    traceback.print_exc()
exec(source)
