"""What the tests of this room share."""

import jax
import pytest

QUICK = {'xla_backend_optimization_level': 0, 'xla_cpu_use_fusion_emitters': False}


@pytest.fixture(scope='session')
def quick_flags():
  """XLA_FLAGS for a process of a few seconds, most of which would be optimising programs that run once."""
  try:
    jax.jit(lambda x: x + 1, compiler_options=QUICK)(1.0)
  except Exception:  # another XLA may not know these options: slower, not wrong
    return ''
  return ' '.join(f'--{name}={str(value).lower()}' for name, value in QUICK.items())
