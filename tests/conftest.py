"""One compilation cache for all processes of a test session: the same program is compiled once."""

import atexit
import os
import shutil
import tempfile

if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  _FOLDER = tempfile.mkdtemp(prefix='jaxpapers-tests-')
  atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
  os.environ['JAX_COMPILATION_CACHE_DIR'] = _FOLDER
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')
os.environ.setdefault('MPLBACKEND', 'agg')
