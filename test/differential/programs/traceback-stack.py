import inspect
import sys
import traceback


def deep():
    traceback.print_stack()
    print(len(inspect.stack()))
    for frame in inspect.stack(context=1):
        print(frame.function, frame.lineno, frame.code_context)
    print(sys._getframe(1).f_back)


deep()
print(sys._getframe().f_back, sys._getframe().f_code.co_name, sys._getframe().f_code.co_filename == __file__)
