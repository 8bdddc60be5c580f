import subprocess

for restore in (True, False):
    print(subprocess.check_output(['grep', '-E', '^Sig(Ign|Blk|Cgt)', '/proc/self/status'], restore_signals=restore, text=True))
