import os
import site
import sys
import sysconfig

print(sys.executable, sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, sys._base_executable)
print(sys.path, sys.platlibdir, sys._stdlib_dir, sys.float_repr_style)
print(os.readlink('/proc/self/exe'), os.getcwd())
print(site.ENABLE_USER_SITE, site.PREFIXES, sysconfig.get_path('stdlib'))
