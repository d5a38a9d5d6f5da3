"""FLOPs are counted as the definitions say, scans included."""

import jax
import jax.numpy as jnp
import pytest

from jaxpapers.engine import measure


def test_matmul_in_a_scan_counts_every_turn():
  x, w = jnp.ones((64, 64)), jnp.ones((64, 64))

  def repeated(x, w):
    return jax.lax.scan(lambda c, _: (c @ w, None), x, length=10)[0].sum()

  assert measure.program_flops(repeated, x, w) == 10 * 2 * 64**3
  assert measure.program_flops(jax.grad(repeated, argnums=(0, 1)), x, w) == pytest.approx(3 * 10 * 2 * 64**3)


def test_convolution_and_branches():
  x, k = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))

  def convolve(x):
    return jax.lax.conv_general_dilated(x, k, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

  want = 2 * 2 * 8 * 8 * 5 * 27
  assert measure.program_flops(convolve, x) == want
  assert measure.program_flops(lambda p, x: jax.lax.cond(p, lambda x: convolve(x).sum(), jnp.sum, x), True, x) == want


def test_measurement_of_a_step():
  row = measure.measure('double', lambda x: x @ x, (jnp.ones((16, 16)),), examples=16, repeats=2)
  assert row.flops == 2 * 16**3 and row.seconds > 0 and row.memory >= 2 * 16 * 16 * 4
