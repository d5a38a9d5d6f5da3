"""Exit policies and the sweep: exact claims, and loops over the definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpapers.predictive_exit import engines, policies, scores, sweep, tables

SAMPLES, EXITS, CLASSES = 40, 6, 4


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def draw(seed, samples=SAMPLES):
  rng = np.random.default_rng(seed)
  return rng.random((samples, EXITS)), rng.integers(1, EXITS, (samples, EXITS))


@functools.cache
def compiled():
  return jax.jit(policies.classic), jax.jit(policies.predictive)


def walked(score, theta, steps, start):
  """One sample, one exit after the other."""
  k, visited, predicted = start, [], {}
  while True:
    visited.append(k)
    if k == len(score) - 1 or score[k] >= theta[k]:
      return k, visited, predicted
    predicted[k] = min(k + steps[k], len(score) - 1)
    k = predicted[k]


@given(st.integers(0, 2**31), st.floats(0, 1), st.integers(0, EXITS - 1))
@settings(max_examples=40, deadline=None)
def test_walk_equals_a_loop(seed, level, start):
  score, steps = draw(seed)
  theta = np.clip(level + 0.2 * np.random.default_rng(seed).normal(size=EXITS), 0, 1)
  with jax.enable_x64(True):
    walk = jax.tree.map(np.asarray, compiled()[1](score, theta, steps, start))
  for n in range(SAMPLES):
    taken, visited, predicted = walked(score[n], theta, steps[n], start)
    assert walk.exit[n] == taken and list(np.flatnonzero(walk.visited[n])) == visited
    assert {k: walk.predicted[n, k] for k in np.flatnonzero(walk.predicted[n] >= 0)} == predicted
    assert walk.predictions[n] == len(visited) - 1


@given(st.integers(0, 2**31), st.floats(0, 1), st.floats(0, 1), st.integers(0, EXITS - 1))
@settings(max_examples=40, deadline=None)
def test_order_of_exits(seed, low, rise, start):
  score, steps = draw(seed)
  classic, predictive = compiled()
  with jax.enable_x64(True):
    before = classic(score, low, None, start)
    after = classic(score, low + rise, None, start)
    jumped = predictive(score, np.full(EXITS, low), steps, start)
  assert np.all(after.exit >= before.exit), 'a higher threshold never makes a classic exit earlier'
  assert np.all(jumped.exit >= before.exit), 'forecasts look at a subset of the exits'
  for walk in (before, jumped):
    visited = np.asarray(walk.visited)
    index = np.arange(EXITS)
    assert np.all(visited.nonzero()[1] <= np.asarray(walk.exit)[visited.nonzero()[0]])
    assert np.all((visited & (index == np.asarray(walk.exit)[:, None])).sum(1) == 1)
  np.testing.assert_array_equal(jumped.predictions, jumped.visited.sum(1) - 1)


def test_next_engine_is_classic_bit_for_bit():
  score, _ = draw(7)
  theta = np.linspace(0.9, 0.5, EXITS)
  classic, predictive = compiled()
  a, b = classic(score, theta), predictive(score, theta, engines.next_steps(score), 0)
  np.testing.assert_array_equal(a.exit, b.exit)
  np.testing.assert_array_equal(a.visited, b.visited)


def test_infinite_thresholds():
  score, steps = draw(8)
  assert np.all(policies.predictive(score, -np.inf, steps, 2).exit == 2)
  assert np.all(policies.classic(score, -np.inf, start=3).exit == 3)
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(size=(SAMPLES, EXITS, CLASSES)), rng.integers(0, CLASSES, SAMPLES)
  walk = policies.predictive(score, np.inf, steps)
  assert np.all(walk.exit == EXITS - 1)
  assert policies.accuracy(logits, labels, walk.exit) == np.mean(logits[:, -1].argmax(-1) == labels)


def test_nan_is_never_confident():
  score = np.full((1, EXITS), np.nan)
  walk = policies.classic(score, -np.inf)
  assert walk.exit[0] == EXITS - 1 and walk.visited.all()


def test_coarse_exits_and_start():
  assert list(np.flatnonzero(policies.every(8, 3))) == [2, 5, 7]
  score = np.ones((1, 8))
  assert policies.classic(score, 0.5, policies.every(8, 3)).exit[0] == 2
  assert policies.classic(score, 0.5, policies.every(8, 3), start=3).exit[0] == 5
  taken = np.array([2, 4, 6, 8])
  assert policies.start_exit(taken, 12) == np.floor(5 - np.std(taken))
  assert policies.start_exit(taken, 12, np.inf) == 0
  assert policies.start_exit(np.full(4, 3), 12, np.inf) == 0, 'no spread, and still the first exit'
  assert policies.start_exit(taken, 12, -10) == 11


def test_patience_counts_visited_exits_alone():
  labels = np.array([[0, 1, 1, 2, 2, 2, 0], [3, 0, 3, 0, 3, 0, 3]])
  np.testing.assert_array_equal(policies.patience(labels, 1).exit, [0, 0])
  np.testing.assert_array_equal(policies.patience(labels, 2).exit, [2, 6])
  np.testing.assert_array_equal(policies.patience(labels, 3).exit, [5, 6])
  allowed = np.arange(7) % 2 == 0  # the second sample says 3 at every one of them
  np.testing.assert_array_equal(policies.patience(labels, 3, allowed).exit, [6, 4])


def test_work_of_a_walk():
  costs = tables.Costs(np.array([10.0, 20.0, 30.0]), np.zeros(3), np.array([1.0, 2.0, 3.0]), np.zeros(3))
  walk = policies.predictive(np.array([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), 0.5, np.array([[2, 1, 1], [1, 1, 1]]))
  np.testing.assert_array_equal(policies.walk_macs(walk, costs, 0.5), [60 + 1 + 3 + 0.5, 30 + 1 + 2 + 0.5])
  assert policies.plain_macs(costs) == 63


@functools.cache
def swept():
  rng = np.random.default_rng(1)

  def table(samples):
    labels = rng.integers(0, CLASSES, samples)
    logits = rng.normal(size=(samples, EXITS, CLASSES))
    logits[np.arange(samples), :, labels] += np.linspace(0.2, 2.5, EXITS)
    return tables.ExitTable(logits, labels)

  costs = tables.Costs(*(np.arange(1.0, EXITS + 1) * x for x in (100, 400, 5, 20)))
  with jax.enable_x64(True):
    calibration, test = (sweep.scored(table(n), scores.max_prob) for n in (80, 90))
    schemes = {
      'classic': sweep.classic_scheme(),
      'coarse': sweep.classic_scheme(stride=2),
      'table': sweep.predictive_scheme(engines.engine('table', 0.5, 4), from_start=True),
      'oracle': sweep.predictive_scheme(engines.engine('oracle')),
    }
    thetas = sweep.threshold_grid(calibration.scores, 12)
    curves = jax.jit(lambda c, t: sweep.sweep(schemes, c, t, costs, thetas))(calibration, test)
  return calibration, test, costs, np.asarray(thetas), schemes, jax.tree.map(np.asarray, curves)


def test_sweep_equals_one_policy_at_a_time():
  calibration, test, costs, thetas, schemes, curves = swept()
  assert thetas[-1] == np.inf and np.all(np.diff(thetas) >= 0)
  one = jax.jit(lambda c, t, theta: {name: schemes[name](c, t, theta) for name in ('coarse', 'table')})
  for i in (3, 8, 11):
    for name, walk in one(calibration, test, thetas[i]).items():
      walk = jax.tree.map(np.asarray, walk)
      macs = np.cumsum(costs.segment_macs)[walk.exit] + walk.visited @ costs.head_macs + EXITS * walk.predictions
      plain = np.sum(costs.segment_macs) + costs.head_macs[-1]
      np.testing.assert_allclose(curves[name].compute[i], np.mean(macs) / plain, rtol=1e-12)
      right = np.asarray(test.logits).argmax(-1)[np.arange(90), walk.exit] == np.asarray(test.labels)
      np.testing.assert_allclose(curves[name].accuracy[i], right.mean())
      np.testing.assert_allclose(curves[name].heads[i], walk.visited.sum(1).mean())


def test_the_oracle_forecast_leaves_where_classic_does_with_at_most_two_heads():
  curves = swept()[5]
  np.testing.assert_allclose(curves['oracle'].accuracy, curves['classic'].accuracy)
  np.testing.assert_allclose(curves['oracle'].depth, curves['classic'].depth)
  assert np.all(curves['oracle'].heads <= 2)


def test_choice_of_a_threshold():
  accuracy, cost = np.array([0.7, 0.8, 0.9, 0.85]), np.array([0.1, 0.5, 0.6, 0.4])
  assert sweep.choose(accuracy, cost, 0.8) == 3
  assert sweep.choose(accuracy, cost, 0.95) == 2, 'the most accurate where none is good enough'


def test_pareto_front():
  cost, accuracy = sweep.envelope(np.array([0.6, 0.2, 0.4]), np.array([0.9, 0.5, 0.95]))
  np.testing.assert_array_equal(cost, [0.2, 0.4, 0.6])
  np.testing.assert_array_equal(accuracy, [0.5, 0.95, 0.95])
  area = sweep.hypervolume(np.array([0.6, 0.2, 0.4]), np.array([0.9, 0.5, 0.95]), 1.0, 0.3)
  np.testing.assert_allclose(area, 0.2 * 0.2 + 0.6 * 0.65)


def test_official_scores_compare_with_beta():
  logits = np.random.default_rng(3).normal(size=(20, EXITS, CLASSES))
  table = tables.ExitTable(logits, np.zeros(20, int))
  level = np.linspace(0.5, 1.5, EXITS - 1)
  got = sweep.official_scored(table, level)
  np.testing.assert_allclose(got.scores[:, :-1], np.abs(logits[:, :-1]).max(-1) / level, rtol=1e-12)
  walk = sweep.official_scheme(level, 1)(got, got, jnp.asarray(2.5))
  assert np.all(walk.exit >= 1)
