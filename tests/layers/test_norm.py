import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.layers.norm import BatchNorm, LayerNorm
from jaxpapers.layers.regularize import drop_path


def test_batch_norm_normalises_with_the_biased_and_stores_the_unbiased_variance():
  x = np.random.default_rng(0).normal(3.0, 2.0, size=(4, 3, 2, 5)).astype(np.float32)
  norm = BatchNorm(eps=1e-6)
  variables = norm.init(jax.random.key(0), x, True)
  y, updated = norm.apply(variables, x, False, mutable=['batch_stats'])
  flat = x.astype(np.float64).reshape(-1, 5)
  mean, var = flat.mean(0), flat.var(0)
  np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-6), atol=1e-5)
  np.testing.assert_allclose(updated['batch_stats']['mean'], 0.1 * mean, rtol=1e-5)
  np.testing.assert_allclose(updated['batch_stats']['var'], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)


def test_batch_norm_uses_and_keeps_running_statistics_when_told():
  x = jnp.full((2, 1, 1, 1), 5.0)
  variables = {
    'params': {'scale': jnp.ones(1), 'bias': jnp.ones(1)},
    'batch_stats': {'mean': jnp.ones(1), 'var': jnp.full(1, 4.0)},
  }
  y, updated = BatchNorm(eps=0.0).apply(variables, x, True, mutable=['batch_stats'])
  assert float(y[0, 0, 0, 0]) == 3.0
  assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), updated['batch_stats'], variables['batch_stats']))


def test_batch_norm_stays_float32_inside_bfloat16():
  x = jnp.asarray(np.random.default_rng(1).normal(100.0, 0.5, size=(64, 4, 4, 2)), jnp.bfloat16)
  norm = BatchNorm()
  variables = norm.init(jax.random.key(0), x, True)
  assert variables['params']['scale'].dtype == jnp.float32
  y, updated = norm.apply(variables, x, False, mutable=['batch_stats'])
  exact = np.asarray(x, np.float64).reshape(-1, 2)
  assert y.dtype == jnp.bfloat16
  np.testing.assert_allclose(updated['batch_stats']['mean'], 0.1 * exact.mean(0), rtol=1e-5)
  np.testing.assert_allclose(np.asarray(y, np.float64).std((0, 1, 2)), 1.0, atol=0.02)


def test_shared_statistics_equal_those_of_the_whole_batch():
  x = np.random.default_rng(2).normal(size=(4, 3, 2, 2, 5)).astype(np.float32)  # [devices, batch, ...]
  whole, shared = BatchNorm(), BatchNorm(axis_name='devices')
  variables = whole.init(jax.random.key(0), x[0], True)
  want, want_stats = whole.apply(variables, x.reshape(-1, 2, 2, 5), False, mutable=['batch_stats'])
  got, got_stats = jax.vmap(
    lambda x: shared.apply(variables, x, False, mutable=['batch_stats']), axis_name='devices', axis_size=4
  )(x)
  np.testing.assert_allclose(got.reshape(want.shape), want, atol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a[2], b, atol=1e-6), got_stats, want_stats)


def test_layer_norm_is_exact_far_from_zero():
  x = np.random.default_rng(3).normal(1000.0, 0.1, size=(2, 3, 64)).astype(np.float32)
  norm = LayerNorm()
  y = norm.apply(norm.init(jax.random.key(0), x), x)
  exact = x.astype(np.float64)
  want = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-6)
  np.testing.assert_allclose(y, want, atol=2e-3)


def test_drop_path_drops_whole_examples_and_keeps_the_mean():
  x = jnp.ones((4000, 2, 3))
  y = np.asarray(drop_path(x, 0.25, jax.random.key(0)))
  assert set(np.unique(y.round(5))) == {0.0, np.float32(1.33333)}
  assert (y == y[:, :1, :1]).all()
  assert abs(y.mean() - 1.0) < 0.03
  np.testing.assert_array_equal(drop_path(x, 0.0, jax.random.key(0)), x)
