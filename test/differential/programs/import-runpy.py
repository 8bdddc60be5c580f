import runpy

result = runpy.run_path('differential_runpy/script.py', init_globals={'given': 5}, run_name='other')
print(result['value'], result['__name__'], result['name'])
print(runpy.run_module('differential_runpy.script', run_name='__main__')['value'])
