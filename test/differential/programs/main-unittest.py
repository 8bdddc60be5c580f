import re
import sys
import unittest


class Cases(unittest.TestCase):
    def test_passes(self):
        self.assertEqual(1, 1)

    def test_fails(self):
        self.assertEqual([1, 2], [1, 3])

    def test_errors(self):
        raise KeyError('x')

    @unittest.skip('not now')
    def test_skipped(self):
        pass


class Stream:
    def write(self, text):
        sys.stderr.write(re.sub(r'in \d+\.\d+s', 'in …s', text))

    def flush(self):
        sys.stderr.flush()


unittest.main(testRunner=unittest.TextTestRunner(stream=Stream(), verbosity=2))
