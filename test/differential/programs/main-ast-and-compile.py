import ast
import dis
import io
import sys

tree = ast.parse(open(__file__).read())
print(len(tree.body), ast.dump(tree.body[0]))
print(eval('1 + 2'), eval(compile('x * 2', '<e>', 'eval'), {'x': 4}))
buffer = io.StringIO()
dis.dis(compile('x = 1', 's', 'exec'), file=buffer)
print('STORE_NAME' in buffer.getvalue())
code = compile('a = 1\nb = a +\n', '<broken>', 'exec')
