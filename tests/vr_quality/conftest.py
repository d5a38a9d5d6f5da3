"""Programs here run once or twice on small arrays: compiling them without most optimisations takes less time."""

import jax
import pytest


@pytest.fixture(scope='module', autouse=True)
def quick_compilation():
  before = jax.config.read('jax_disable_most_optimizations')
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', before)
