import code
import sys

console = code.InteractiveConsole({'x': 20})
for line in sys.stdin:
    console.push(line.rstrip('\n'))
