"""Engines against loops over the definitions in NumPy."""

import functools

import jax
import numpy as np
import pytest
import scipy.special

from jaxpapers.predictive_exit import engines, policies, successor

THETA, EXITS = 0.7, 7


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


@functools.cache
def data(samples=120, seed=0):
  rng = np.random.default_rng(seed)
  return np.clip(np.sort(rng.random((samples, EXITS)), axis=1) + 0.1 * rng.normal(size=(samples, EXITS)), 0, 1)


def by_loops(scores, theta):
  """First confident exit after every exit."""
  samples, exits = scores.shape
  out = np.full((samples, exits), exits)
  for n in range(samples):
    for k in range(exits - 1):
      out[n, k] = next((j for j in range(k + 1, exits) if scores[n, j] >= theta), exits - 1)
  return out


@functools.cache
def fitted():
  def fit(scores):
    table = engines.fit_table(scores, THETA, 0.3, 4, 5)
    curve, weights = engines.fit_ramp(scores), engines.fit_linear(scores, THETA)
    return (
      table,
      engines.table_steps(table, scores),
      engines.ramp_steps(curve, scores, THETA),
      weights,
      engines.linear_steps(weights, scores),
      engines.next_confident(scores, THETA),
    )

  with jax.enable_x64(True):
    return jax.tree.map(np.asarray, jax.jit(fit)(data()))


def test_next_confident_exit():
  np.testing.assert_array_equal(fitted()[5], by_loops(data(), THETA))


def test_table_is_the_lower_quantile_of_every_bin():
  scores, (table, steps, *_) = data(), fitted()
  edges = np.quantile(scores[:, :-1], [0.25, 0.5, 0.75])
  np.testing.assert_allclose(table.edges, edges, atol=1e-14)
  bins = np.searchsorted(edges, scores, side='right')
  ahead = by_loops(scores, THETA) - np.arange(EXITS)
  for k in range(EXITS - 1):
    unsure = scores[:, k] < THETA
    for b in range(4):
      d = ahead[unsure & (bins[:, k] == b), k]
      assert table.counts[k, b] == len(d)
      d = np.sort(d if len(d) >= 5 else ahead[unsure, k])
      want = d[max(int(np.ceil(0.3 * len(d))) - 1, 0)] if len(d) else 1
      assert table.steps[k, b] == want
  np.testing.assert_array_equal(steps, table.steps[np.arange(EXITS), bins])


def test_table_with_quantile_zero_never_skips_the_first_confident_exit():
  scores = data()
  table = jax.jit(lambda s: engines.fit_table(s, THETA, 0.0, 4, 1))(scores)
  steps = np.asarray(engines.table_steps(table, scores))
  ahead = by_loops(scores, THETA) - np.arange(EXITS)
  unsure = (scores < THETA)[:, :-1]
  assert unsure.any()
  assert np.all(steps[:, :-1][unsure] <= ahead[:, :-1][unsure])


def test_ramp_climbs_the_mean_curve():
  scores, steps = data(), fitted()[2]
  curve = np.concatenate([[0], np.maximum(np.diff(scores.mean(0)), 0).cumsum()])
  for n in range(len(scores)):
    for k in range(EXITS - 1):
      reach = scores[n, k] + curve[k + 1 :] - curve[k]
      hits = np.flatnonzero(reach >= THETA)
      assert steps[n, k] == (hits[0] + 1 if len(hits) else EXITS - 1 - k)


def test_linear_is_ridge_regression_on_the_slope():
  scores, (_, _, _, weights, steps, _) = data(), fitted()
  ahead = by_loops(scores, THETA) - np.arange(EXITS)
  for k in range(EXITS - 1):
    unsure = scores[:, k] < THETA
    s, d = scores[unsure, k], ahead[unsure, k]
    if len(s) < 2:
      np.testing.assert_array_equal(weights[k], [1, 0])
      continue
    design = np.stack([np.ones(len(s)), s], axis=1)
    want = np.linalg.solve(design.T @ design + np.diag([0, 1e-3 * len(s)]), design.T @ d)
    np.testing.assert_allclose(weights[k], want, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(
      steps[:, k], np.clip(np.floor(design_of(scores[:, k]) @ want + 0.5), 1, EXITS - 1 - k)
    )


def design_of(s):
  return np.stack([np.ones(len(s)), s], axis=1)


def convolved(z):
  return np.stack([np.convolve(row, np.ones(3), mode='same') for row in z.reshape(-1, z.shape[-1])]).reshape(z.shape)


def test_successor_engine_by_loops():
  logits = np.random.default_rng(3).normal(size=(30, EXITS, 5)) * 0.4
  got = jax.jit(successor.class_conv_steps)(logits, 0.6)
  want = np.zeros((30, EXITS), int)
  for k in range(EXITS):
    limit, z = max(min(8, EXITS - 1 - k), 1), logits[:, k]
    open_ = np.ones(30, bool)
    for i in range(1, limit + 1):
      z = convolved(z)
      hit = open_ & ((scipy.special.softmax(z, -1).max(-1) > 0.6) | (i == limit))
      want[hit, k], open_ = i, open_ & ~hit
  np.testing.assert_array_equal(got, want)
  assert len(np.unique(want)) > 2


def test_memory_of_one_exit_is_the_engine_without_memory():
  logits = np.random.default_rng(4).normal(size=(30, EXITS, 5)) * 0.4
  history = np.zeros((30, 3, 5))
  history[:, 0] = logits[:, 2]
  got = successor.multi_prediction_steps(history, np.ones(30, int), 0.6, EXITS - 3)
  np.testing.assert_array_equal(got, successor.class_conv_steps(logits, 0.6)[:, 2])
  history[:, 1] = logits[:, 1]
  aged = 3 * scipy.special.softmax(convolved(history[:, 0]), -1)
  aged += 2 * scipy.special.softmax(convolved(convolved(history[:, 1])), -1)
  two = successor.multi_prediction_steps(history, np.full(30, 2), 0.6, EXITS - 3)
  np.testing.assert_array_equal(np.asarray(two) == 1, aged.max(-1) > 0.6 * 5)


def test_successor_walks():
  logits = np.random.default_rng(5).normal(size=(40, EXITS, 5)) * np.linspace(0.3, 2.5, EXITS)[:, None]
  scores = scipy.special.softmax(logits, -1).max(-1)
  steps = np.asarray(successor.class_conv_steps(logits, THETA))
  once = successor.single_jump(scores, THETA, steps, 1)
  want = np.where(scores[:, 1] >= THETA, 1, np.minimum(1 + steps[:, 1], EXITS - 1))
  np.testing.assert_array_equal(once.exit, want)
  np.testing.assert_array_equal(once.predictions, scores[:, 1] < THETA)
  many = jax.jit(successor.multi_prediction)(logits, scores, THETA)
  first = policies.predictive(scores, THETA, steps)
  # The first forecast has no memory yet, so both walks visit the same second exit.
  np.testing.assert_array_equal(many.predicted[:, 0], first.predicted[:, 0])
  np.testing.assert_array_equal(many.visited.sum(1) - 1, many.predictions)


def test_engines_by_name():
  with pytest.raises(ValueError, match=r"'forest' is not known; known: table, ramp, linear, next, oracle"):
    engines.engine('forest')
  with pytest.raises(ValueError, match=r'q=1.5 is outside'):
    engines.engine('table', q=1.5)
  with pytest.raises(ValueError, match='at least one bin'):
    engines.engine('table', bins=0)
  np.testing.assert_array_equal(
    engines.engine('oracle')(data(), data(), THETA), by_loops(data(), THETA) - np.arange(EXITS)
  )
