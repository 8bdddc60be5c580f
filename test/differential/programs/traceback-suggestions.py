import traceback
import collections

for source in ('pritn(1)', 'collections.namedtupel', 'from collections import namedtupel', 'import collectoins', 'None.x', 'counter = 1; conuter'):
    try:
        exec(source)
    except Exception:
        traceback.print_exc()


class Point:
    horizontal = 1

    def move(self):
        return self.horizontl


Point().move()
