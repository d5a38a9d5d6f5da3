"""Operating points for a known sequence of work under a deadline: enumeration, dynamic programme, bound (extension).

    minimise sum_i w_i (E[i, j_i] + E_switch[j_{i-1}, j_i])  such that  sum_i T[i, j_i] + T_switch[j_{i-1}, j_i] <= D

With w_i = 1 it is the schedule of a fixed exit; with w_i the probability of reaching segment i it is the
input-independent schedule that needs no forecast: speeds rise along the depth (PACE in real-time scheduling). Shapes:
`steps` n, `points` J. Times: s, energies: J.
"""

import itertools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.predictive_exit.tables import Array

LIMIT = 1_000_000  # schedules that enumeration may look at
_ROUND = 1e-9  # ticks; a duration of exactly n ticks is not rounded up to n + 1


class Problem(NamedTuple):
  """A sequence of work.

  Attributes:
    energy: [steps, points].
    time: [steps, points].
    switch_time: [points, points], from row to column.
    switch_energy: [points, points].
    start_point: int, operating point before the first step.
    weight: [steps] probability that a step is reached.
  """

  energy: Array
  time: Array
  switch_time: Array
  switch_energy: Array
  start_point: Array | int
  weight: Array


def problem(
  energy: Array,
  time: Array,
  switch_time: Array,
  switch_energy: Array,
  start_point: Array | int,
  weight: Array | None = None,
) -> Problem:
  """The problem, with weight 1 everywhere by default; shapes checked."""
  chex.assert_rank([energy, time, switch_time, switch_energy], 2)
  chex.assert_equal_shape([energy, time])
  chex.assert_equal_shape([switch_time, switch_energy])
  weight = jnp.ones(jnp.shape(energy)[0]) if weight is None else jnp.asarray(weight)
  return Problem(*map(jnp.asarray, (energy, time, switch_time, switch_energy)), start_point, weight)


def reach_probability(exits_taken: Array, exits: int) -> jax.Array:
  """S_k, the share of samples that reach segment k; [exits]."""
  return jnp.mean(jnp.asarray(exits_taken)[:, None] >= jnp.arange(exits), axis=0, dtype=jnp.result_type(float))


def evaluate(p: Problem, schedule: Array) -> tuple[jax.Array, jax.Array]:
  """(weighted energy, time) of schedules [..., steps] int."""
  schedule = jnp.asarray(schedule)
  start = jnp.broadcast_to(jnp.asarray(p.start_point, schedule.dtype), (*schedule.shape[:-1], 1))
  before = jnp.concatenate([start, schedule[..., :-1]], axis=-1)
  index = jnp.arange(schedule.shape[-1])
  energy = jnp.sum(p.weight * (p.energy[index, schedule] + p.switch_energy[before, schedule]), axis=-1)
  return energy, jnp.sum(p.time[index, schedule] + p.switch_time[before, schedule], axis=-1)


def enumerate_schedules(p: Problem, limit: Array) -> tuple[jax.Array, jax.Array]:
  """(least energy, its schedule) by looking at all of them; infinity if none fits the deadline. Source: our extension.

  Args:
    p: the problem.
    limit: deadline, s.

  Raises:
    ValueError: for more than 1e6 schedules.
  """
  steps, points = p.energy.shape
  if points**steps > LIMIT:
    raise ValueError(f'{points}^{steps} schedules are too many to enumerate (at most {LIMIT:,}); use `plan`.')
  schedules = jnp.asarray(np.array(list(itertools.product(range(points), repeat=steps)), np.int32))
  energy, time = evaluate(p, schedules)
  energy = jnp.where(time <= limit * (1 + 1e-12), energy, jnp.inf)
  best = jnp.argmin(energy)
  return energy[best], schedules[best]


def plan(p: Problem, limit: Array, ticks: int) -> tuple[jax.Array, jax.Array]:
  """(energy, schedule) of a dynamic programme over (step, previous point, ticks left): always feasible.

  Durations are rounded up to ticks of limit / ticks, so that the energy converges to the optimum from above; infinity
  if nothing fits. One scan; vmap over deadlines.

  Source: our extension.

  Args:
    p: the problem.
    limit: deadline, s.
    ticks: resolution.
  """
  steps, points = p.energy.shape
  duration = p.time[:, None, :] + p.switch_time[None]  # [steps, before, point]
  spans = jnp.ceil(duration / (limit / ticks) - _ROUND).astype(jnp.int32)
  price = p.weight[:, None, None] * (p.energy[:, None, :] + p.switch_energy[None])
  left = jnp.arange(ticks + 1)

  def backward(value, step):
    span, cost = step
    # value[point, left]: least energy from the next step on.
    rest = left[None, None, :] - span[:, :, None]
    after = jnp.take_along_axis(jnp.broadcast_to(value, (points, *value.shape)), jnp.maximum(rest, 0), axis=2)
    total = jnp.where(rest >= 0, cost[:, :, None] + after, jnp.inf)
    return jnp.min(total, axis=1), jnp.argmin(total, axis=1)

  end = jnp.zeros((points, ticks + 1), price.dtype)
  value, best = jax.lax.scan(backward, end, (spans, price), reverse=True)

  def forward(state, step):
    point, rest = state
    choice, span = step
    chosen = choice[point, rest].astype(jnp.int32)
    return (chosen, jnp.maximum(rest - span[point, chosen], 0)), chosen

  start = jnp.asarray(p.start_point, jnp.int32)
  _, schedule = jax.lax.scan(forward, (start, jnp.asarray(ticks, jnp.int32)), (best, spans))
  return value[start, ticks], schedule


def lagrangian_bound(p: Problem, limit: Array, count: int = 64, rounds: int = 6) -> jax.Array:
  """Lower bound of the energy: the best schedule of E + lambda (T - D), at the lambda where that is largest.

  The bound is concave in lambda: a grid from 0 to the steepest slope of the problem is refined around its best entry.

  Source: our extension.

  Args:
    p: the problem.
    limit: deadline, s.
    count: grid entries a round.
    rounds: of refinement, each by a factor (count - 1) / 2.
  """
  energy = p.weight[:, None, None] * (p.energy[:, None, :] + p.switch_energy[None])
  time = p.time[:, None, :] + p.switch_time[None]

  def bound(multiplier):
    price = energy + multiplier * time

    def backward(value, step):
      return jnp.min(step + value[None, :], axis=1), None

    value, _ = jax.lax.scan(backward, jnp.zeros(price.shape[1], price.dtype), price, reverse=True)
    return value[p.start_point] - multiplier * limit

  def refine(_, state):
    low, high, best = state
    grid = jnp.linspace(low, high, count)
    values = jax.vmap(bound)(grid)
    at = jnp.argmax(values)
    return grid[jnp.maximum(at - 1, 0)], grid[jnp.minimum(at + 1, count - 1)], jnp.maximum(best, values[at])

  top = _steepest(p)
  return jax.lax.fori_loop(0, rounds, refine, (jnp.zeros_like(top), top, bound(0.0)))[2]


def _steepest(p: Problem) -> jax.Array:
  """Largest |energy difference / time difference| of two points of a step, W, with room for switching."""
  energy = p.weight[:, None, None] * (p.energy[:, :, None] - p.energy[:, None, :])
  time = p.time[:, :, None] - p.time[:, None, :]
  apart = time != 0
  return 4.0 * jnp.max(jnp.where(apart, jnp.abs(energy) / jnp.where(apart, jnp.abs(time), 1.0), 0.0))
