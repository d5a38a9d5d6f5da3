"""The C library's allocator, told to keep what programs free: large temporaries otherwise fault in page by page."""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8  # of mallopt, in glibc's malloc.h


def keep_freed_memory() -> bool:
  """Lets this process reuse freed memory instead of returning it to the system.

  Training on CPU allocates the same arrays of tens of megabytes in every step; glibc maps those afresh each time, and
  the kernel clears every page again. Call once, before the first computation. The process keeps its peak memory.

  Returns:
    Whether it took effect: on Linux with glibc only.
  """
  if not sys.platform.startswith('linux'):
    return False
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt is None:
    return False
  # One arena: those of further threads are mappings of 64 MiB at most, which larger arrays cannot come from.
  settings = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 << 20))
  return all([mallopt(name, value) == 1 for name, value in settings])
