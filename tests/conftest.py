"""One compilation cache for all processes of a test session, and programs that are compiled quickly.

Most of a test's time is compiling a program that runs once. `JAX_DISABLE_MOST_OPTIMIZATIONS=false` tests the programs
as users compile them.
"""

import atexit
import os
import shutil
import tempfile

if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  _FOLDER = tempfile.mkdtemp(prefix='jaxpapers-tests-')
  atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
  os.environ['JAX_COMPILATION_CACHE_DIR'] = _FOLDER
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', 'true')
os.environ.setdefault('MPLBACKEND', 'agg')
