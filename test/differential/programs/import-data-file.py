import csv
import json
import pathlib

here = pathlib.Path(__file__).parent
print(json.loads((here / 'differential_data' / 'values.json').read_text()))
with open('differential_data/table.csv', newline='') as file:
    print(list(csv.DictReader(file)))
print(here == pathlib.Path.cwd())
