import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.layers.conv_norm import ConvNorm
from jaxpapers.layers.fpn import FPN

SIZES = ((5, 7, 3), (3, 4, 4), (2, 2, 5))


def maps(seed=0):
  rng = np.random.default_rng(seed)
  return [jnp.asarray(rng.normal(size=(2, *size)), jnp.float32) for size in SIZES]


def test_shapes_and_extra_levels():
  module = FPN(width=6, extra=2)
  levels, variables = jax.jit(module.init_with_output)(jax.random.key(0), maps())
  assert [x.shape for x in levels] == [(2, 5, 7, 6), (2, 3, 4, 6), (2, 2, 2, 6), (2, 1, 1, 6), (2, 1, 1, 6)]
  assert set(variables['params']) == {f'lateral{i}' for i in range(3)} | {f'output{i}' for i in range(5)}


def test_the_finest_level_sees_every_map_and_extra_levels_only_the_last():
  module = FPN(width=4, extra=1)
  variables = jax.jit(module.init)(jax.random.key(0), maps())
  # With laterals of ones and outputs that copy the centre, every level is the sum of what lies above it.
  params = jax.tree.map(jnp.zeros_like, variables['params'])
  for i in range(3):
    params[f'lateral{i}']['kernel'] += 1
    params[f'output{i}']['kernel'] = params[f'output{i}']['kernel'].at[1, 1].set(jnp.eye(4))
  params['output3']['kernel'] += 1
  x = maps()
  levels = jax.jit(module.apply)({'params': params}, x)
  sums = [m.sum(-1) for m in x]
  rows, columns = np.arange(3) * 2 // 3, np.arange(4) * 2 // 4
  middle = sums[1] + sums[2][:, rows][:, :, columns]
  np.testing.assert_allclose(levels[1][..., 0], middle, atol=1e-4)
  rows, columns = np.arange(5) * 3 // 5, np.arange(7) * 4 // 7
  np.testing.assert_allclose(levels[0][..., 0], sums[0] + middle[:, rows][:, :, columns], atol=1e-4)
  np.testing.assert_allclose(levels[3][:, 0, 0, 0], sums[2].sum((1, 2)), atol=1e-4)


def test_no_maps():
  with pytest.raises(ValueError, match='at least one map'):
    FPN().init(jax.random.key(0), [])


@pytest.mark.parametrize('depthwise', [False, True])
def test_conv_norm_normalises_in_training_and_keeps_statistics_in_use(depthwise):
  x = maps()[0] * 3 + 1
  module = ConvNorm(features=3, kernel_size=3, depthwise=depthwise, activation=lambda y: y)
  variables = module.init(jax.random.key(0), x)
  y, updates = module.apply(variables, x, train=True, mutable=['batch_stats'])
  np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
  np.testing.assert_allclose(y.std((0, 1, 2)), 1, atol=1e-3)
  assert y.shape == x.shape
  assert not np.allclose(updates['batch_stats']['norm']['mean'], 0)
  assert 'bias' not in variables['params']['conv']
  again = module.apply({**variables, **updates}, x)
  assert not np.allclose(again, y)
