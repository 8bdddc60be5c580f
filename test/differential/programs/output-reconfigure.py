import sys

sys.stdout.reconfigure(line_buffering=True, errors='backslashreplace', encoding='ascii')
print('é漢')
sys.stdout.reconfigure(newline='\r\n')
print('crlf')
sys.stdout.reconfigure(encoding='utf-16')
print('wide')
