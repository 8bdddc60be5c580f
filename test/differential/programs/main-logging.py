import logging

logging.warning('default format')
logging.info('not shown')
logging.basicConfig(format='%(levelname)s %(name)s %(module)s %(filename)s %(lineno)d %(funcName)s %(message)s %(processName)s %(threadName)s', level=0, force=True)


def f():
    logging.getLogger('child').info('shown %d', 1)


f()
try:
    1 / 0
except ZeroDivisionError:
    logging.exception('with traceback')
logging.error('bad %d', 'format')
