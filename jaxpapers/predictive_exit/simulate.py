"""A whole inference, segment by segment: time, energy and operating points of every sample (extension).

Charged in this order: segment, head (where the walk visits), forecast (where it does not leave), change of operating
point; nothing after the exit. Times: s, energies: J. Shapes: `samples` N, `exits` L, `points` J.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxpapers.predictive_exit import dvfs
from jaxpapers.predictive_exit.energy import CostTables
from jaxpapers.predictive_exit.policies import Walk
from jaxpapers.predictive_exit.tables import Array

# (exit, exit that is forecast, s since the start, present point) -> next point, of one sample.
Chooser = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


class Run(NamedTuple):
  """What inference cost.

  Attributes:
    energy: [samples] J.
    time: [samples] s.
    switches: [samples] int32, changes of operating point.
    point: [samples, exits] int32, operating point of every executed segment, -1 after the exit.
    clock: [samples, exits] s at the end of every executed segment's work (head, forecast and change included);
      after the exit it stands still.
  """

  energy: jax.Array
  time: jax.Array
  switches: jax.Array
  point: jax.Array
  clock: jax.Array


def simulate(tables: CostTables, walk: Walk, choose: Chooser, start_point: Array) -> Run:
  """Runs the samples of a walk with a frequency rule. Source: our extension.

  Args:
    tables: times and energies.
    walk: of a policy; a sample that is not `visited` and not `predicted` at an exit pays nothing there.
    choose: called where a forecast was made.
    start_point: int, operating point at the start.
  """
  chex.assert_equal_shape([walk.visited, walk.predicted])
  tables = jax.tree.map(jnp.asarray, tables)
  exits = tables.segment_time.shape[0]

  def one(taken, visited, predicted):
    def layer(state, column):
      time, energy, switches, point = state
      k, visit, forecast, segment_t, segment_e, head_t, head_e = column
      running = k <= taken
      asked = running & (forecast >= 0)
      new_time = time + segment_t[point]
      new_energy = energy + segment_e[point]
      new_time += jnp.where(visit, head_t[point], 0.0)
      new_energy += jnp.where(visit, head_e[point], 0.0)
      new_time += jnp.where(asked, tables.engine_time[point], 0.0)
      new_energy += jnp.where(asked, tables.engine_energy[point], 0.0)
      chosen = choose(k, jnp.clip(forecast, 0, exits - 1), new_time, point)
      chosen = jnp.where(asked, chosen, point)
      new_time += tables.switch_time[point, chosen]
      new_energy += tables.switch_energy[point, chosen]
      time = jnp.where(running, new_time, time)
      state = (time, jnp.where(running, new_energy, energy), switches + (chosen != point), chosen)
      return state, (jnp.where(running, point, -1), time)

    zero = jnp.zeros((), tables.segment_time.dtype)
    begin = (zero, zero, jnp.zeros((), jnp.int32), jnp.asarray(start_point, jnp.int32))
    columns = (
      jnp.arange(exits, dtype=jnp.int32),
      visited,
      predicted,
      tables.segment_time,
      tables.segment_energy,
      tables.head_time,
      tables.head_energy,
    )
    (time, energy, switches, _), (points, clock) = jax.lax.scan(layer, begin, columns)
    return Run(energy, time, switches, points, clock)

  return jax.vmap(one)(walk.exit, walk.visited, walk.predicted)


def fixed_point(tables: CostTables, walk: Walk, point: Array) -> Run:
  """Everything at one operating point."""
  return simulate(tables, walk, lambda k, forecast, now, at: at, point)


def deadline_safe(
  tables: CostTables, walk: Walk, limit: Array, start_point: Array, mode: str = 'hard', choice: str = 'lowest'
) -> Run:
  """Frequency from every forecast by `dvfs.choose_point`; arguments as there.

  Source: our extension: the paper's lower clock after a forecast, made safe.
  """
  tables = jax.tree.map(jnp.asarray, tables)
  sums = dvfs.remaining(tables)

  def choose(k, forecast, now, point):
    return dvfs.choose_point(tables, sums, k, forecast, now, point, limit, mode, choice)

  return simulate(tables, walk, choose, start_point)


def stretch(tables: CostTables, frequencies: Array, walk: Walk, ratio: float = 1.0) -> Run:
  """Frequency from every forecast by the successor's rule, starting at the highest; knows no deadline.

  Source: the authors' later work.

  Args:
    tables: times and energies.
    frequencies: [points] Hz.
    walk: of a predictive policy.
    ratio: see `dvfs.stretch_level`.
  """
  last = tables.segment_time.shape[0] - 1

  def choose(k, forecast, now, point):
    remain = jnp.maximum(last - k, 1)
    return dvfs.stretch_level(frequencies, remain, forecast - k, ratio)

  return simulate(tables, walk, choose, len(frequencies) - 1)


def scheduled(tables: CostTables, walk: Walk, schedule: Array, start_point: Array) -> Run:
  """A fixed operating point per segment (its head included), the same for every sample; changes are charged.

  Args:
    tables: times and energies.
    walk: of a policy.
    schedule: [exits] int.
    start_point: int, operating point before the first segment.
  """
  tables = jax.tree.map(jnp.asarray, tables)
  schedule = jnp.asarray(schedule, jnp.int32)
  index = jnp.arange(schedule.shape[0])
  before = jnp.concatenate([jnp.asarray(start_point, jnp.int32)[None], schedule[:-1]])
  asked = walk.predicted >= 0

  def total(segment, head, engine, switch):
    here = (segment[index, schedule] + switch[before, schedule]) + jnp.where(walk.visited, head[index, schedule], 0.0)
    here += jnp.where(asked, engine[schedule], 0.0)
    return jnp.cumsum(jnp.where(index <= walk.exit[:, None], here, 0.0), axis=1)

  clock = total(tables.segment_time, tables.head_time, tables.engine_time, tables.switch_time)
  energy = total(tables.segment_energy, tables.head_energy, tables.engine_energy, tables.switch_energy)
  running = index <= walk.exit[:, None]
  switches = jnp.sum(running & (before != schedule), axis=1, dtype=jnp.int32)
  return Run(energy[:, -1], clock[:, -1], switches, jnp.where(running, schedule, -1), clock)


def miss_rate(run: Run, limit: Array) -> jax.Array:
  """Share of samples whose time exceeds the deadline (by more than 1e-9 of it)."""
  return jnp.mean(run.time > limit * (1 + 1e-9), dtype=jnp.result_type(float))
