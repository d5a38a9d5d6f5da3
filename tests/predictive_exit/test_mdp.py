"""The optimal joint policy: the chain by loops, brute force on a tiny chain, and no missed deadline."""

import functools

import jax
import numpy as np
import pytest

from jaxpapers.predictive_exit import dvfs, energy, engines, mdp, platforms, policies, simulate
from jaxpapers.predictive_exit.tables import Costs

THETA, EXITS, BINS = 0.75, 5, 3


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def draw_scores(samples=200):
  rng = np.random.default_rng(0)
  return np.clip(np.sort(rng.random((samples, EXITS)), axis=1) + 0.05 * rng.normal(size=(samples, EXITS)), 0, 1)


@functools.cache
def solved():
  p = platforms.platform('rk3399_big')
  p = p._replace(f=p.f[[0, 3, 7]], V=p.V[[0, 3, 7]])
  costs = Costs(np.full(EXITS, 2e7), np.full(EXITS, 4e5), np.full(EXITS, 4e6), np.full(EXITS, 1e5))
  score = draw_scores()
  with jax.enable_x64(True):
    tables = energy.cost_tables(p, costs)._replace(engine_time=np.zeros(3), engine_energy=np.zeros(3))
    edges = engines.score_edges(score, BINS)
    transitions = jax.jit(mdp.chain)(score, THETA, edges, 5.0)
    limit = 1.4 * float(energy.plain_time(tables)[-1])
    solve = jax.jit(mdp.bellman, static_argnames=('ticks', 'fixed_next'))
    free = solve(transitions, tables, limit, ticks=60)
    classic = solve(transitions, tables, limit, ticks=60, fixed_next=True)
    walk, run = jax.jit(mdp.run)(free, tables, score, THETA, edges, 2)
  return tables, np.asarray(edges), np.asarray(transitions), limit, free, classic, walk, run


def test_chain_by_loops():
  score, edges, transitions = draw_scores(), solved()[1], solved()[2]
  bins, unsure = np.searchsorted(edges, score, side='right'), score < THETA
  for k in range(EXITS - 1):
    for later in range(k + 1, EXITS - 1):
      for b in range(BINS):
        here = unsure[:, k] & (bins[:, k] == b)
        for c in range(BINS):
          there = unsure[:, later] & (bins[:, later] == c)
          row = np.sum(unsure[:, k] & there) / max(unsure[:, k].sum(), 1)
          np.testing.assert_allclose(
            transitions[k + 1, b, later, c], (np.sum(here & there) + 5 * row) / (here.sum() + 5), atol=1e-14
          )
  assert np.all(transitions[..., -1, :] == 0) and np.all(transitions[0, 0] == transitions[0, 1])


def brute_force(transitions, tables, limit, ticks, k, b, c, left):
  """The equation itself, by recursion over everything."""
  t = jax.tree.map(np.asarray, tables)
  best = np.inf
  for later in range(k + 1, EXITS):
    for point in range(3):
      time = t.switch_time[c, point] + t.segment_time[k + 1 : later + 1, point].sum() + t.head_time[later, point]
      rest = left - int(np.ceil(time / (limit / ticks) - 1e-9))
      if rest < 0:
        continue
      cost = t.switch_energy[c, point] + t.segment_energy[k + 1 : later + 1, point].sum() + t.head_energy[later, point]
      if later < EXITS - 1:
        after = [brute_force(transitions, tables, limit, ticks, later, d, point, rest) for d in range(BINS)]
        if np.isinf(after).any():
          continue
        cost += transitions[k + 1, b, later] @ np.array(after)
      best = min(best, cost)
  return best


def test_value_equals_brute_force():
  tables, _, transitions, limit, free, *_ = solved()
  for k, b, c, left in ((1, 0, 2, 40), (1, 2, 0, 30), (2, 1, 1, 25), (0, 1, 2, 45), (2, 0, 0, 3)):
    want = brute_force(transitions, tables, limit, 60, k, b, c, left)
    np.testing.assert_allclose(free.value[k + 1, b, c, left], want, rtol=1e-12)


def test_optimum_is_below_classic_and_below_every_table_policy_under_the_same_chain():
  tables, edges, transitions, limit, free, classic, *_ = solved()
  assert np.all(np.asarray(free.value) <= np.asarray(classic.value) * (1 + 1e-12))
  best = float(mdp.start_value(free, 2))
  assert best <= mdp.start_value(classic, 2)
  t = jax.tree.map(np.asarray, tables)

  def cost(step, k, b, point):
    """Expected energy of "look step[k, b] further, stay at `point`" under the chain."""
    later = min(k + step[k, b], EXITS - 1)
    here = t.segment_energy[k + 1 : later + 1, point].sum() + t.head_energy[later, point]
    if later == EXITS - 1:
      return here
    return here + sum(transitions[k + 1, b, later, d] * cost(step, later, d, point) for d in range(BINS))

  for q in (0.0, 0.5, 1.0):
    step = np.asarray(engines.fit_table(draw_scores(), THETA, q, BINS).steps)
    first = t.segment_energy[0, 2] + t.head_energy[0, 2]
    table = first + sum(transitions[0, 0, 0, d] * cost(step, 0, d, 2) for d in range(BINS))
    assert best <= table * (1 + 1e-12)


def test_simulation_misses_nothing_and_spends_what_was_expected():
  tables, edges, _, limit, free, _, walk, run = solved()
  assert np.isfinite(mdp.start_value(free, 2))
  assert simulate.miss_rate(run, limit) == 0
  np.testing.assert_allclose(np.mean(run.energy), mdp.start_value(free, 2), rtol=0.05)
  assert np.all(walk.visited.sum(1) - 1 == walk.predictions)
  taken = np.asarray(walk.exit)
  assert np.all(np.asarray(policies.confident(draw_scores(), THETA))[np.arange(len(taken)), taken])
  assert dvfs.worst_case_time(tables)[2] > limit / 1.4, 'running every head takes longer than the plain network'


def test_infinite_where_the_deadline_cannot_be_kept():
  free = solved()[4]
  assert np.all(np.isinf(free.value[0, :, :, 0])) and np.all(free.value[-1] == 0)
