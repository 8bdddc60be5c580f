import os
import sys

os.execv(sys.executable, [sys.executable, '-c', 'import sys; print(sys.argv); raise SystemExit("done")', 'x'])
