"""Schedules: enumeration by a loop, the programme from above, the bound from below."""

import functools
import itertools

import jax
import numpy as np
import pytest

from jaxpapers.predictive_exit import schedules

STEPS, POINTS = 4, 3


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def draw(seed):
  rng = np.random.default_rng(seed)
  f = np.sort(rng.uniform(0.5, 2.0, POINTS))
  work = rng.exponential(1.0, STEPS)[:, None] + 0.1
  switch = rng.choice([0.0, 0.1]) * ~np.eye(POINTS, dtype=bool)
  weight = np.sort(rng.random(STEPS))[::-1] if seed % 2 else np.ones(STEPS)
  return schedules.problem(work * f**2 + 0.2 * work / f, work / f, switch, 0.5 * switch, POINTS - 1, weight)


@functools.cache
def solvers():
  plan = jax.jit(schedules.plan, static_argnames='ticks')
  return jax.jit(schedules.enumerate_schedules), plan, jax.jit(schedules.lagrangian_bound)


def by_loop(p, limit):
  best = np.inf
  for points in itertools.product(range(POINTS), repeat=STEPS):
    at, time, spent = POINTS - 1, 0.0, 0.0
    for i, j in enumerate(points):
      time += p.time[i, j] + p.switch_time[at, j]
      spent += p.weight[i] * (p.energy[i, j] + p.switch_energy[at, j])
      at = j
    if time <= limit * (1 + 1e-12):
      best = min(best, spent)
  return best


@pytest.mark.parametrize('seed', range(6))
def test_programme_above_optimum_above_bound(seed):
  p = draw(seed)
  enumerate_, plan, bound = solvers()
  fastest = float(np.sum(p.time[:, -1]))
  previous = np.inf
  for alpha in (1.0, 1.15, 1.4, 2.0, 4.0):
    limit = alpha * fastest
    best, points = enumerate_(p, limit)
    np.testing.assert_allclose(best, by_loop(jax.tree.map(np.asarray, p), limit), rtol=1e-12)
    assert best <= previous * (1 + 1e-12), 'a later deadline never costs more'
    previous = best
    spent, time = schedules.evaluate(p, points)
    np.testing.assert_allclose(spent, best)
    assert time <= limit * (1 + 1e-12)
    found, schedule = plan(p, limit, ticks=4000)
    assert found >= best * (1 - 1e-12)
    assert found <= best * 1.005 or alpha == 1.0, 'rounding up leaves nothing at the tightest deadline'
    if np.isfinite(found):
      spent, time = schedules.evaluate(p, schedule)
      np.testing.assert_allclose(spent, found)
      assert time <= limit * (1 + 1e-9)
    assert bound(p, limit) <= best * (1 + 1e-12)


def test_impossible_deadline_and_too_many_schedules():
  p = draw(0)
  assert solvers()[0](p, 1e-3)[0] == np.inf and solvers()[1](p, 1e-3, ticks=4000)[0] == np.inf
  big = schedules.problem(np.ones((20, 8)), np.ones((20, 8)), np.zeros((8, 8)), np.zeros((8, 8)), 7)
  with pytest.raises(ValueError, match=r'8\^20 schedules are too many'):
    schedules.enumerate_schedules(big, 1.0)


def test_speeds_rise_along_the_depth_where_fewer_samples_arrive():
  f = np.linspace(0.5, 2.0, 16)
  taken = np.repeat(np.arange(4), [40, 30, 20, 10])
  reach = schedules.reach_probability(taken, 4)
  np.testing.assert_allclose(reach, [1.0, 0.6, 0.3, 0.1])
  zero = np.zeros((16, 16))
  p = schedules.problem(np.tile(f**2, (4, 1)), np.tile(1 / f, (4, 1)), zero, zero, 15, reach)
  _, schedule = jax.jit(schedules.plan, static_argnames='ticks')(p, 4.0, ticks=800)
  speeds = f[np.asarray(schedule)]
  assert np.all(np.diff(speeds) >= 0) and speeds[-1] > speeds[0]
  # The continuous optimum is proportional to reach^(-1/3).
  want = np.asarray(reach) ** (-1 / 3)
  np.testing.assert_allclose(speeds / speeds.mean(), want / want.mean(), atol=0.12)
