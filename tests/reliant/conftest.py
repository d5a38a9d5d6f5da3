"""Programs of these tests run a few times on tiny graphs: compiling is what costs, so that it is made cheap."""

import functools

import jax
import pytest

QUICK = {'xla_backend_optimization_level': 0, 'xla_cpu_use_fusion_emitters': False}


@pytest.fixture(scope='package', autouse=True)
def quick_flags():
  """Every jax.jit of the room's tests compiles quickly; gives the same as XLA_FLAGS, for other processes."""
  try:
    jax.jit(lambda x: x + 1, compiler_options=QUICK)(1.0)
  except Exception:  # another XLA may not know these options: slower, not wrong
    yield ''
    return
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, 'jit', functools.partial(jax.jit, compiler_options=QUICK))
    yield ' '.join(f'--{name}={str(value).lower()}' for name, value in QUICK.items())
