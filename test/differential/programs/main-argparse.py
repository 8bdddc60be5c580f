import argparse

parser = argparse.ArgumentParser(description='A program with options.')
parser.add_argument('name')
parser.add_argument('-n', '--number', type=int, default=1, help='how many')
parser.add_argument('--flag', action='store_true')
parser.print_help()
print(parser.parse_args())
parser.parse_args(['--number', 'many', 'x'])
