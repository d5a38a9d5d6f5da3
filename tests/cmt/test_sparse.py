"""Sparse convolution against the dense rule: values, gradients, active sites, static maxima."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.cmt import sparse
from jaxpapers.cmt.sparse_encoder import MaskedBatchNorm, SparseEncoder
from jaxpapers.layers.norm import BatchNorm

GRID = (5, 7, 6)
WINDOWS = {
  'submanifold': ((3, 3, 3), None, None),
  'strided': ((3, 3, 3), (2, 2, 2), (0, 1, 1)),
  'last': ((3, 1, 1), (2, 1, 1), (0, 0, 0)),
}


def _sites(counts=(60, 23, 0), rows=70, grid=GRID, seed=0):
  """Sorted ids of some examples, one of them empty, and features that are 0 in unused rows."""
  rng = np.random.default_rng(seed)
  cells = int(np.prod(grid))
  ids = np.full((len(counts), rows), cells, np.int32)
  for row, count in zip(ids, counts, strict=True):
    row[:count] = np.sort(rng.choice(cells, count, replace=False))
  x = rng.normal(size=(*ids.shape, 4)) * (ids < cells)[..., None]
  return jnp.asarray(ids), jnp.asarray(x, jnp.float32)


@pytest.mark.parametrize('window', WINDOWS.values(), ids=WINDOWS.keys())
def test_values_and_gradients_equal_the_dense_rule(window):
  kernel_size, stride, padding = window
  ids, x = _sites()
  rng = np.random.default_rng(1)
  kernel = jnp.asarray(rng.normal(size=(*kernel_size, 4, 3)), jnp.float32)
  cells = int(np.prod(GRID))

  @jax.jit
  def both(x, kernel):
    if stride is None:
      target, sites = GRID, ids
      near = sparse.submanifold_neighbours(ids, GRID)
    else:
      target = sparse.strided_shape(GRID, kernel_size, stride, padding)
      sites, _ = sparse.strided_sites(ids, GRID, kernel_size, stride, padding, 120)
      near = sparse.strided_neighbours(ids, GRID, sites, kernel_size, stride, padding)

    def gathered(x, kernel):
      return sparse.densify(sparse.gather_conv(x, kernel, near, block=16), sites, target)

    def dense(x, kernel):
      grid, mask = (sparse.densify(v, ids, GRID) for v in (x, (ids < cells)[..., None]))
      strides = (1, 1, 1) if stride is None else stride
      return sparse.dense_conv(grid, mask[..., 0], kernel, strides, padding)

    got, vjp = jax.vjp(gathered, x, kernel)
    want, dense_vjp, mask = jax.vjp(dense, x, kernel, has_aux=True)
    cotangent = jnp.asarray(np.random.default_rng(2).normal(size=want.shape), jnp.float32)
    grads, wanted = vjp(cotangent), dense_vjp(cotangent)
    active = sparse.densify((sites < np.prod(target))[..., None], sites, target)[..., 0]
    return got, want, active, mask, grads, wanted

  got, want, active, mask, grads, wanted = both(x, kernel)
  assert np.array_equal(active, mask) and 0 < mask.sum() < mask.size
  np.testing.assert_allclose(got, want, atol=2e-5)
  used = (ids < cells)[..., None]
  np.testing.assert_allclose(grads[0] * used, wanted[0] * used, atol=2e-5)
  np.testing.assert_allclose(grads[1], wanted[1], atol=5e-5)


def test_sites_that_find_no_room_are_counted_and_the_first_are_kept():
  ids, _ = _sites()
  window = WINDOWS['strided']
  sites = jax.jit(sparse.strided_sites, static_argnums=(1, 2, 3, 4, 5))
  every, count = sites(ids, GRID, *window, 120)
  few, same = sites(ids, GRID, *window, 20)
  assert np.array_equal(count, same) and int(count[0]) > 20 > int(count[2]) == 0
  assert np.array_equal(few, every[:, :20])


def test_block_size_changes_nothing():
  ids, x = _sites()
  near = jax.jit(sparse.submanifold_neighbours, static_argnums=1)(ids, GRID)
  kernel = jnp.asarray(np.random.default_rng(3).normal(size=(3, 3, 3, 4, 2)), jnp.float32)
  conv = jax.jit(sparse.gather_conv, static_argnums=3)
  whole = conv(x, kernel, near, 1000)
  for block in (1, 17):
    np.testing.assert_allclose(conv(x, kernel, near, block), whole, atol=1e-5)
  with pytest.raises(ValueError, match='does not fit 4 channels and 27 taps'):
    sparse.gather_conv(x, kernel[:1], near)


def test_masked_batch_norm_equals_batch_norm_of_the_active_rows():
  ids, x = _sites()
  active = ids < np.prod(GRID)
  x = x * 3 + 1  # what stands in unused rows must not count
  norm, plain = MaskedBatchNorm(), BatchNorm(1e-3, 0.99)
  start = {'params': {'scale': jnp.array([1.0, 2, 3, 4]), 'bias': jnp.array([0.0, 1, 2, 3])}}
  stats = {'batch_stats': {'mean': jnp.arange(4.0), 'var': jnp.arange(1.0, 5.0)}}
  for train in (False, True):
    got, new = norm.apply({**start, **stats}, x, active, not train, mutable=['batch_stats'])
    want, wanted = plain.apply({**start, **stats}, x[active], not train, mutable=['batch_stats'])
    np.testing.assert_allclose(got[active], want, atol=1e-5)
    assert not np.any(np.asarray(got)[~np.asarray(active)])
    for name, value in wanted['batch_stats'].items():
      np.testing.assert_allclose(new['batch_stats'][name], value, rtol=1e-5)
  _, kept = norm.apply({**start, **stats}, x, jnp.zeros_like(active), False, mutable=['batch_stats'])
  jax.tree.map(np.testing.assert_array_equal, kept, stats)


@pytest.fixture(scope='module')
def encoder():
  """(grid, ids, inputs, variables, compiled forward of training) of a small encoder."""
  grid = (41, 16, 16)
  ids, x = _sites((50, 20), 50, grid)
  coords = jnp.stack(sparse.coordinates(ids, grid), -1)
  module = SparseEncoder(grid, (3, 3, 3, 3), 5, (300, 200, 60, 40), block=64)
  shapes = jax.eval_shape(module.init, jax.random.key(0), x, coords)
  rng = np.random.default_rng(5)
  variables = jax.tree.map(lambda s: jnp.asarray(0.5 + 0.2 * rng.normal(size=s.shape), jnp.float32), shapes)
  step = jax.jit(lambda x, coords: module.apply(variables, x, coords, True, mutable=['batch_stats']))
  return grid, ids, (x, coords), variables['batch_stats'], step


def test_order_of_voxels_and_rows_outside_do_not_matter(encoder):
  grid, ids, (x, coords), start, step = encoder
  (bev, lost), stats = step(x, coords)
  assert bev.shape == (2, 2, 2, 10) and np.abs(bev).max() > 0
  assert all(int(n.sum()) == 0 for n in lost.values())
  assert np.all(stats['batch_stats']['layer1_0']['bn1']['mean'] != start['layer1_0']['bn1']['mean'])
  order = np.random.default_rng(4).permutation(50)
  used = (ids < np.prod(grid))[..., None]
  elsewhere = jnp.where(used, coords, jnp.array([3, -1, 99]))
  (again, _), same = step(jnp.where(used, x, jnp.nan)[:, order], elsewhere[:, order])
  np.testing.assert_allclose(again, bev, atol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), same, stats)


def test_training_without_a_voxel_changes_no_statistics(encoder):
  _, _, (x, coords), start, step = encoder
  (bev, _), stats = step(x, jnp.full_like(coords, -1))
  assert not np.any(bev)
  jax.tree.map(np.testing.assert_array_equal, stats['batch_stats'], start)


def test_gradients_of_empty_statistics_are_finite():
  norm = MaskedBatchNorm()
  x = jnp.ones((1, 5, 3))
  variables = norm.init(jax.random.key(0), x, jnp.ones((1, 5), bool), True)
  for active in (jnp.zeros((1, 5), bool), jnp.ones((1, 5), bool)):

    def loss(params, x, active=active):
      y, _ = norm.apply({**variables, 'params': params}, x, active, False, mutable=['batch_stats'])
      return jnp.square(y + 1).sum()

    grads = jax.jit(jax.grad(loss, (0, 1)))(variables['params'], x)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert np.any(grads[0]['bias']) == bool(active.any())
