"""What a measurement was made on, without names of folders or hosts."""

import importlib.metadata
import os
import platform
import re
import time
from pathlib import Path


def described(cores: int = 0) -> dict[str, str]:
  """Processor, cores, versions and date; does not start JAX, which would take memory of an accelerator.

  Args:
    cores: that were used; 0 for all that this process may use.
  """
  try:
    names = re.findall(r'^model name\s*:\s*(.+)$', Path('/proc/cpuinfo').read_text(), re.M)
  except OSError:
    names = []
  mine = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
  return {
    'processor': names[0].strip() if names else platform.machine(),
    'cores': str(cores or mine),
    'python': platform.python_version(),
    'jax': importlib.metadata.version('jax'),
    'date': time.strftime('%Y-%m-%d'),
  }
