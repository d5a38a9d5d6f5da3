"""Whole inferences: the deadline guarantee over random platforms, and single runs by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.predictive_exit import dvfs, energy, platforms, policies, simulate
from jaxpapers.predictive_exit.energy import CostTables

CASES, EXITS, POINTS = 10_000, 7, 5


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def random_cases(rng):
  """Unrelated random times and energies: the guarantee may not depend on what a processor would do."""
  f = np.sort(rng.uniform(0.2, 2.0, (CASES, POINTS)), axis=1)
  work = rng.exponential(1.0, (CASES, EXITS, 1))
  floor = rng.exponential(0.3, (CASES, EXITS, 1))
  segment = np.maximum(work / f[:, None], floor)
  head = rng.exponential(1.0, (CASES, EXITS, 1)) * rng.choice([0.01, 0.1, 1.0], (CASES, 1, 1)) / f[:, None]
  forecast = rng.choice([0.0, 0.01, 0.3], (CASES, 1)) / f
  switch = rng.choice([0.0, 0.05, 1.0], (CASES, 1, 1)) * ~np.eye(POINTS, dtype=bool)
  spent = [rng.exponential(1.0, x.shape) for x in (segment, head, forecast, switch)]
  return CostTables(segment, spent[0], head, spent[1], forecast, spent[2], switch, spent[3])


@functools.cache
def guarded(mode, choice):
  """One sample on each of many platforms, from the highest point and from the planned one."""

  def one(tables, score, steps, limit, planned):
    walk = policies.predictive(score[None], 0.7, steps[None])
    start = jnp.where(planned, dvfs.planned_point(tables, limit), POINTS - 1)
    run = simulate.deadline_safe(tables, walk, limit, start, mode, choice)
    fits = dvfs.worst_case_time(tables)[start] <= limit
    return run.time[0], fits, run.switches[0]

  return jax.jit(jax.vmap(one))


@pytest.mark.parametrize('choice', dvfs.CHOICES)
def test_no_deadline_is_missed_if_the_worst_case_fits_at_the_start(choice):
  rng = np.random.default_rng(0)
  tables = random_cases(rng)
  full = np.asarray(jax.vmap(dvfs.worst_case_time)(tables))[:, -1]
  limit = full * rng.choice([0.8, 1.0, 1.1, 1.5, 3.0], CASES) * rng.uniform(1.0, 1.2, CASES)
  score, steps = rng.random((CASES, EXITS)), rng.integers(1, EXITS, (CASES, EXITS))
  time, fits, switches = map(np.asarray, guarded('hard', choice)(tables, score, steps, limit, rng.random(CASES) < 0.5))
  assert not np.any(fits & (time > limit * (1 + 1e-9)))
  assert fits.mean() > 0.5 and switches.mean() > 0.3, 'the cases are not trivial'
  assert np.any(time[~fits] > limit[~fits] * (1 + 1e-9)), 'and without the condition some are late'


def test_soft_mode_misses_and_costs_less_than_full_speed_on_an_ideal_processor():
  rng = np.random.default_rng(1)
  p = platforms.platform('rk3399_big')._replace(i0=0.0, p_base=0.0, t_sw=0.0, c_rail=0.0, stall=0.0)
  work = rng.uniform(1e6, 4e7, (4, EXITS))
  tables = energy.cost_tables(p, energy.Costs(work[0], 0 * work[1], work[2] / 20, 0 * work[3]))
  walk = policies.predictive(rng.random((300, EXITS)), 0.8, rng.integers(1, EXITS, (300, EXITS)))
  limit = energy.deadline(tables, 1.1)
  top = len(p.f) - 1
  soft = jax.jit(lambda w: simulate.deadline_safe(tables, w, limit, top, 'soft'))(walk)
  full = jax.jit(lambda w: simulate.fixed_point(tables, w, top))(walk)
  assert np.all(np.asarray(soft.energy) <= np.asarray(full.energy) * (1 + 1e-12))
  assert np.mean(soft.energy) < 0.95 * np.mean(full.energy)
  assert simulate.miss_rate(soft, limit) > 0.1


def small():
  rng = np.random.default_rng(2)
  shapes = ((3, 2), (3, 2), (3, 2), (3, 2), (2,), (2,))
  segment_t, segment_e, head_t, head_e, engine_t, engine_e = (rng.random(s) for s in shapes)
  switch = np.array([[0.0, 0.25], [0.125, 0.0]])
  return CostTables(segment_t, segment_e, head_t, head_e, engine_t, engine_e, switch, 2 * switch)


def test_one_run_by_hand():
  t = small()
  walk = policies.predictive(np.zeros((1, 3)), 0.5, np.array([[2, 1, 1]]))  # visits exits 0 and 2
  run = simulate.simulate(t, walk, lambda k, forecast, now, at: jnp.zeros((), jnp.int32), 1)
  want = t.segment_time[0, 1] + t.head_time[0, 1] + t.engine_time[1] + 0.125
  np.testing.assert_allclose(run.clock[0, 0], want)
  want += t.segment_time[1, 0]
  np.testing.assert_allclose(run.clock[0, 1], want)
  want += t.segment_time[2, 0] + t.head_time[2, 0]
  np.testing.assert_allclose(run.time[0], want)
  spent = t.segment_energy[0, 1] + t.head_energy[0, 1] + t.engine_energy[1] + 0.25
  np.testing.assert_allclose(run.energy[0], spent + t.segment_energy[1:, 0].sum() + t.head_energy[2, 0])
  np.testing.assert_array_equal(run.point, [[1, 0, 0]])
  assert run.switches[0] == 1


def test_nothing_is_charged_after_the_exit():
  t = small()
  walk = policies.classic(np.array([[0.0, 1.0, 0.0]]), 0.5)
  run = simulate.fixed_point(t, walk, 1)
  np.testing.assert_allclose(run.time[0], np.sum((t.segment_time + t.head_time)[:2, 1]))
  np.testing.assert_array_equal(run.point, [[1, 1, -1]])
  assert run.clock[0, 2] == run.clock[0, 1] == run.time[0]


def test_schedule_of_one_point_is_that_point_and_others_pay_for_changes():
  t = small()
  walk = policies.predictive(np.zeros((1, 3)), 0.5, np.array([[1, 1, 1]]))
  same = simulate.scheduled(t, walk, np.ones(3, int), 1)
  fixed = simulate.fixed_point(t, walk, 1)
  np.testing.assert_allclose(same.energy, fixed.energy)
  np.testing.assert_allclose(same.time, fixed.time)
  mixed = simulate.scheduled(t, walk, np.array([0, 1, 1]), 1)
  index, points = np.arange(3), np.array([0, 1, 1])
  want = (t.segment_time + t.head_time)[index, points].sum() + t.engine_time[0] + t.engine_time[1] + 0.125 + 0.25
  np.testing.assert_allclose(mixed.time[0], want)
  assert mixed.switches[0] == 2


def test_stretch_with_one_right_forecast_takes_the_time_of_the_plain_network():
  # Equal layers, time ~ 1 / f, a level at every wanted frequency: 4 layers of the remaining 8 at half speed.
  f = np.array([0.25, 0.5, 0.75, 1.0])
  layers = 10
  zero = np.zeros((layers, 4))
  time = np.broadcast_to(1 / f, (layers, 4))
  t = CostTables(time, time, zero, zero, np.zeros(4), np.zeros(4), np.zeros((4, 4)), np.zeros((4, 4)))
  score = np.zeros((1, layers))
  score[0, 5] = 1.0
  walk = policies.predictive(score, 0.5, np.full((1, layers), 4), 1)
  run = simulate.stretch(t, f, walk)
  assert walk.exit[0] == 5
  np.testing.assert_array_equal(run.point[0, 2:6], [1] * 4)
  np.testing.assert_allclose(run.time[0], layers)
  # A second forecast adds its remainder again, as `stretch_latency` says.
  wrong = policies.predictive(np.zeros((1, layers)), 0.5, np.full((1, layers), 4), 1)
  late = simulate.stretch(t, f, wrong).time[0]
  assert late > 1.3 * layers


def test_unknown_modes_and_choices():
  t = small()
  walk = policies.classic(np.zeros((1, 3)), 0.5)
  with pytest.raises(ValueError, match=r"mode='firm' is not known; known: hard, soft"):
    simulate.deadline_safe(t, walk, 1.0, 0, 'firm')
  with pytest.raises(ValueError, match=r"choice='random' is not known; known: lowest, min_energy"):
    simulate.deadline_safe(t, walk, 1.0, 0, 'hard', 'random')
