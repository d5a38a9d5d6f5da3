"""Group FTRL and FTRL against float64 references, and the row-sparse form against the dense one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpapers.xdeepint.optimizers import (
  GroupFtrl,
  ftrl,
  group_ftrl,
  group_ftrl_rows,
  group_ftrl_start,
  group_ftrl_step,
  group_ftrl_weights,
  sum_duplicates,
  xdeepint_optimizer,
)
from jaxpapers.xdeepint.training import first_projection, unique_ids

OPTIONS = GroupFtrl(0.05, 1.0, 0.3, 0.1)


def reference_step(w, n, z, g, o):
  new_n = n + g * g
  z = z + g - (np.sqrt(new_n) - np.sqrt(n)) / o.alpha * w
  t = o.lambda1 * np.sqrt(w.shape[1])
  out = np.zeros_like(w)
  for r, row in enumerate(z):
    norm = np.linalg.norm(row)
    if norm > t:
      out[r] = -(1 - t / norm) * row / ((o.beta + np.sqrt(new_n[r])) / o.alpha + o.lambda2)
  return out, new_n, z


def test_group_ftrl_equals_a_float64_reference():
  rng = np.random.default_rng(0)
  w = rng.normal(size=(6, 4)) * 0.3
  state = (w, np.zeros_like(w), np.zeros_like(w))
  with jax.enable_x64(True):
    optimizer = group_ftrl(OPTIONS)
    params = jnp.asarray(w)
    slots = optimizer.init(params)
    for _ in range(8):
      g = rng.normal(size=w.shape) * (rng.random((6, 1)) < 0.6)
      state = reference_step(*state, g, OPTIONS)
      updates, slots = optimizer.update(jnp.asarray(g), slots, params)
      params = optax.apply_updates(params, updates)
      np.testing.assert_allclose(params, state[0], rtol=1e-12, atol=1e-14)
      np.testing.assert_array_equal(np.any(params, axis=1), np.any(state[0], axis=1))


def test_the_first_step_zeroes_rows_without_gradient():
  w = jnp.ones((3, 4))
  optimizer = group_ftrl(OPTIONS)
  updates, _ = optimizer.update(jnp.zeros((3, 4)).at[1].set(5.0), optimizer.init(w), w)
  new = optax.apply_updates(w, updates)
  assert not new[0].any() and not new[2].any() and new[1].all()


@pytest.mark.parametrize('summed', [True, False])
def test_rows_equal_dense_over_twenty_steps(summed):
  rng = np.random.default_rng(1)
  rows, size, lookups = 50, 8, 30
  # Operation by operation both round alike; a compiled program may fuse a multiply and an add in one but not the other.
  compiled = (lambda f: f) if summed else jax.jit
  step = compiled(lambda t, s, i, g: group_ftrl_rows(t, s, i, g, OPTIONS))
  dense_step = compiled(lambda w, n, z, g: group_ftrl_step(w, n, z, g, OPTIONS))
  table = jnp.asarray(rng.normal(size=(rows, size)) * 0.3, jnp.float32)
  dense = (table, jnp.zeros_like(table), jnp.zeros_like(table))
  state = group_ftrl(OPTIONS).init(table)
  for number in range(20):
    # Duplicates, a row that is never touched (49), ids that stand for no row.
    ids = jnp.asarray(rng.integers(-1, rows - 1, lookups), jnp.int32)
    grads = jnp.asarray(rng.normal(size=(lookups, size)), jnp.float32)
    if number == 0:
      table = first_projection(table, jnp.where(ids < 0, rows, ids))
    unique, total = sum_duplicates(ids, grads, min(lookups, rows + 1), rows)
    if summed:
      full = jnp.zeros((rows, size)).at[unique].set(total, mode='drop')
    else:
      full = jnp.zeros((rows, size)).at[jnp.where(ids < 0, rows, ids)[::-1]].add(grads[::-1], mode='drop')
    table, state = step(table, state, unique, total)
    dense = dense_step(*dense, full)
    for got, want in zip((table, *state), dense, strict=True):
      if summed:
        np.testing.assert_array_equal(got, want)
      else:
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(np.any(table, axis=1), np.any(dense[0], axis=1))
  assert not table[49].any()


def objective(w, z, q, t):
  return np.sum(w * z, axis=1) + 0.5 * np.sum(q * w * w, axis=1) + t * np.linalg.norm(w, axis=1)


def test_the_exact_prox_is_never_worse_and_equals_the_published_one_where_that_is_exact():
  rng = np.random.default_rng(2)
  with jax.enable_x64(True):
    z = rng.normal(size=(1000, 8)) * rng.exponential(2.0, size=(1000, 1))
    n = rng.exponential(size=(1000, 8)) ** 3
    exact = np.asarray(group_ftrl_weights(jnp.asarray(z), jnp.asarray(n), OPTIONS._replace(prox='exact')))
    published = np.asarray(group_ftrl_weights(jnp.asarray(z), jnp.asarray(n), OPTIONS))
    q = (OPTIONS.beta + np.sqrt(n)) / OPTIONS.alpha + OPTIONS.lambda2
    t = OPTIONS.lambda1 * np.sqrt(8)
    better = objective(published, z, q, t) - objective(exact, z, q, t)
    assert better.min() >= -1e-14 and better.max() > 1e-6
    np.testing.assert_array_equal(np.any(exact, axis=1), np.any(published, axis=1))
    # At the minimiser the objective's gradient vanishes.
    alive = np.any(exact, axis=1)
    w = exact[alive]
    gradient = z[alive] + q[alive] * w + t * w / np.linalg.norm(w, axis=1, keepdims=True)
    assert np.abs(gradient).max() < 1e-9
    even = jnp.ones((1000, 8)) * jnp.asarray(n[:, :1])
    both = [group_ftrl_weights(jnp.asarray(z), even, OPTIONS._replace(prox=p)) for p in ('exact', 'published')]
    np.testing.assert_allclose(*both, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize('prox', ['exact', 'published'])
def test_a_start_reproduces_given_weights(prox):
  options = OPTIONS._replace(prox=prox)
  w = jax.random.normal(jax.random.key(0), (5, 4)).at[2].set(0.0)
  z = group_ftrl_start(w, options)
  np.testing.assert_allclose(group_ftrl_weights(z, jnp.zeros_like(z), options), w, rtol=1e-5)


def test_zero_rows_are_harmless_under_nan_debugging():
  with jax.debug_nans(True):
    for prox in ('exact', 'published'):
      out = group_ftrl_weights(jnp.zeros((3, 4)), jnp.zeros((3, 4)), GroupFtrl(lambda1=0.0, prox=prox))
      assert not out.any()


def test_ftrl_equals_a_float64_reference():
  rng = np.random.default_rng(3)
  lr, l1, l2 = 0.1, 0.5, 0.3
  w, n, z = rng.normal(size=7), np.full(7, 0.1), np.zeros(7)
  with jax.enable_x64(True):
    optimizer = ftrl(lr, l1, l2)
    params = {'a': jnp.asarray(w)}
    state = optimizer.init(params)
    for _ in range(6):
      g = rng.normal(size=7)
      new_n = n + g * g
      z = z + g - (np.sqrt(new_n) - np.sqrt(n)) / lr * w
      n = new_n
      w = np.where(np.abs(z) > l1, (np.sign(z) * l1 - z) / (np.sqrt(n) / lr + 2 * l2), 0.0)
      updates, state = optimizer.update({'a': jnp.asarray(g)}, state, params)
      params = optax.apply_updates(params, updates)
      np.testing.assert_allclose(params['a'], w, rtol=1e-12, atol=1e-15)
      np.testing.assert_array_equal(params['a'] == 0, w == 0)


def test_the_pair_gives_each_part_its_optimizer():
  params = {'embedding': {'table': jnp.ones((2, 4))}, 'pin': {'kernels': jnp.ones((1, 2, 2))}}
  grads = jax.tree.map(jnp.ones_like, params)
  both = xdeepint_optimizer(OPTIONS, ftrl())
  updates, _ = both.update(grads, both.init(params), params)
  for part, single in (('embedding', group_ftrl(OPTIONS)), ('pin', ftrl())):
    want, _ = single.update(grads[part], single.init(params[part]), params[part])
    jax.tree.map(np.testing.assert_array_equal, updates[part], want)


def test_unique_ids_count_what_does_not_fit():
  ids = jnp.asarray([5, 3, 9, 3, 5, 0], jnp.int32)
  unique, inverse, distinct = unique_ids(ids, 6, 9)
  assert unique.tolist() == [0, 3, 5, 9, 9, 9] and int(distinct) == 4
  np.testing.assert_array_equal(unique[inverse], ids)
  assert int(unique_ids(ids, 2, 9)[2]) == 4


@pytest.mark.parametrize(
  ('options', 'word'),
  [
    (GroupFtrl(alpha=0.0), 'alpha=0.0'),
    (GroupFtrl(alpha=-1), 'alpha=-1'),
    (GroupFtrl(lambda1=-0.1), 'lambda1=-0.1'),
    (GroupFtrl(prox='approximate'), 'approximate'),
  ],
)
def test_impossible_options_are_named(options, word):
  with pytest.raises(ValueError, match=word):
    group_ftrl(options)


def test_integers_are_as_good_as_floats():
  w = jnp.ones((2, 4))
  for integer, real in ((GroupFtrl(1, 1, 1, 1), GroupFtrl(1.0, 1.0, 1.0, 1.0)),):
    a, b = group_ftrl(integer), group_ftrl(real)
    np.testing.assert_array_equal(a.update(w, a.init(w), w)[0], b.update(w, b.init(w), w)[0])
  with pytest.raises(ValueError, match='learning_rate'):
    ftrl(learning_rate=0)
  with pytest.raises(ValueError, match='needs the parameters'):
    ftrl().update(w, ftrl().init(w))
