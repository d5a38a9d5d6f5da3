import platform
import subprocess
import sys


def test_it_takes_effect_exactly_where_glibc_is_and_computations_go_on():
  program = (
    'from jaxpapers.engine.allocator import keep_freed_memory; import numpy as np; kept = keep_freed_memory();'
    'print(kept, float(sum(np.ones(1 << 22).sum() for _ in range(3))))'
  )
  done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
  kept, total = done.stdout.split()
  assert float(total) == 3 * (1 << 22)
  assert kept == str(platform.libc_ver()[0] == 'glibc')
