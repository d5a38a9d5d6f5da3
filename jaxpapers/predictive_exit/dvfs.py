"""Choosing an operating point after a forecast (extension), and the rule of the paper's successor.

Guarantee of the hard mode: if all segments, all heads and a forecast at every exit but the last fit the deadline D at
the starting operating point, then no sample is ever late, whatever scores and forecasts are. Why: call a moment when an
exit was not taken "safe" if one of two ways to pay for every later head and forecast ends by D: staying at the
present point, or changing to the highest. At the first exit staying is safe, by assumption. At a safe moment the point
that makes it safe is admitted, since the forecast exit is reached with fewer heads and forecasts than were counted; and
whatever is admitted makes the moment after the forecast exit, should it fail, safe again ("stay" and "up" below). The
last exit always leaves, and is reached in time. Exits that are skipped only leave more time.
Times: s, energies: J.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxpapers.predictive_exit.energy import CostTables
from jaxpapers.predictive_exit.tables import Array

MODES = ('hard', 'soft')
CHOICES = ('lowest', 'min_energy')
SLACK = 1e-12  # relative; a deadline met exactly counts as met


class Remaining(NamedTuple):
  """Prefix sums of the cost tables, so that a choice costs a few adds.

  Attributes:
    segments: [exits + 1, points] time of segments 0..k-1 in row k.
    energy: [exits + 1, points] energy of segments 0..k-1 in row k.
    after: [exits, points] time of every segment and head after exit p, with forecasts at all of them but the last.
  """

  segments: jax.Array
  energy: jax.Array
  after: jax.Array


def remaining(tables: CostTables) -> Remaining:
  """The prefix sums of `tables`."""
  exits, points = tables.segment_time.shape
  zero = jnp.zeros((1, points), tables.segment_time.dtype)
  segments = jnp.concatenate([zero, jnp.cumsum(tables.segment_time, axis=0)])
  energy = jnp.concatenate([zero, jnp.cumsum(tables.segment_energy, axis=0)])
  whole = jnp.cumsum((tables.segment_time + tables.head_time)[::-1], axis=0)[::-1]
  later = jnp.concatenate([whole[1:], zero])
  forecasts = jnp.maximum(exits - 2 - jnp.arange(exits), 0)[:, None] * tables.engine_time
  return Remaining(segments, energy, later + forecasts)


def worst_case_time(tables: CostTables) -> jax.Array:
  """All segments, all heads and a forecast at every exit but the last; [points] s."""
  exits = tables.segment_time.shape[0]
  return jnp.sum(tables.segment_time + tables.head_time, axis=0) + (exits - 1) * tables.engine_time


def planned_point(tables: CostTables, limit: Array) -> jax.Array:
  """Lowest operating point whose worst case fits the deadline; the highest if none does. int32 index."""
  fits = worst_case_time(tables) <= limit * (1 + SLACK)
  return jnp.where(jnp.any(fits), jnp.argmax(fits), fits.shape[0] - 1).astype(jnp.int32)


def choose_point(
  tables: CostTables,
  sums: Remaining,
  visited: Array,
  forecast: Array,
  now: Array,
  point: Array,
  limit: Array,
  mode: str = 'hard',
  choice: str = 'lowest',
) -> jax.Array:
  """Operating point from here to the forecast exit, of one sample (vmap for more).

  Args:
    tables: times and energies.
    sums: their prefix sums, `remaining(tables)`.
    visited: int, exit k that was visited and not taken.
    forecast: int, exit p > k that was forecast.
    now: s since the start of the inference.
    point: int, present operating point.
    limit: deadline, s.
    mode: soft asks only that the forecast exit is reached in time; hard also that a failed forecast is survived.
    choice: lowest frequency, or least energy up to the forecast exit (first on ties).

  Returns:
    int32 index; the highest point where none is admissible.

  Raises:
    ValueError: for an unknown mode or choice.
  """
  if mode not in MODES:
    raise ValueError(f'mode={mode!r} is not known; known: {", ".join(MODES)}.')
  if choice not in CHOICES:
    raise ValueError(f'choice={choice!r} is not known; known: {", ".join(CHOICES)}.')
  exits = tables.segment_time.shape[0]
  limit = limit * (1 + SLACK)
  reached = (
    now
    + tables.switch_time[point]
    + (sums.segments[forecast + 1] - sums.segments[visited + 1])
    + tables.head_time[forecast]
  )
  admitted = reached <= limit
  if mode == 'hard':
    failed = reached + tables.engine_time
    up = failed + tables.switch_time[:, -1] + sums.after[forecast, -1]
    stay = failed + sums.after[forecast]
    admitted &= (forecast == exits - 1) | (jnp.minimum(up, stay) <= limit)
  if choice == 'lowest':
    best = jnp.argmax(admitted)
  else:
    spent = (
      tables.switch_energy[point]
      + (sums.energy[forecast + 1] - sums.energy[visited + 1])
      + tables.head_energy[forecast]
    )
    best = jnp.argmin(jnp.where(admitted, spent, jnp.inf))
  return jnp.where(jnp.any(admitted), best, admitted.shape[0] - 1).astype(jnp.int32)


def nearest_level(frequencies: Array, target: Array) -> jax.Array:
  """Index of the list entry nearest to `target`: the lower one on ties, the first below the list, the last above it.

  Args:
    frequencies: [points] ascending.
    target: [...] in the same unit.

  Returns:
    [...] int32.
  """
  frequencies, target = jnp.asarray(frequencies), jnp.asarray(target)
  above = jnp.clip(jnp.searchsorted(frequencies, target), 0, frequencies.shape[0] - 1)
  below = jnp.maximum(above - 1, 0)
  lower = target - frequencies[below] <= frequencies[above] - target
  return jnp.where(lower, below, above).astype(jnp.int32)


def stretch_level(frequencies: Array, remain: Array, jump: Array, ratio: float = 1.0) -> jax.Array:
  """Successor's rule: the forecast layers may take as long as all remaining ones at the highest frequency.

  target = f_max * min(jump * ratio, remain) / remain, then the nearest level. The latency equals that of the plain
  network only if layers take equal times, time goes as 1 / f, and the first forecast is right.

  Args:
    frequencies: [points] ascending, Hz.
    remain: [...] layers after the present exit.
    jump: [...] forecast number of layers, >= 1.
    ratio: 1 for the GPU of a Jetson TX2; 3 or 4 for a cluster of its CPU.

  Returns:
    [...] int32 level.
  """
  frequencies = jnp.asarray(frequencies)
  target = frequencies[-1] * jnp.minimum(jump * ratio, remain) / remain
  return nearest_level(frequencies, target)


def stretch_latency(exits: int, start: int, forecasts_at: Array) -> jax.Array:
  """Latency of `stretch` relative to the plain network for equal layers and exact frequencies.

  (start + sum_i (exits - k_i)) / (exits + 1): every forecast after the first adds its whole remainder again.

  Args:
    exits: E, without the classifier (which counts as one layer).
    start: number of the starting exit, from 1.
    forecasts_at: [...] 0-based indices of the exits where forecasts were made.
  """
  return (start + jnp.sum(exits - jnp.asarray(forecasts_at))) / (exits + 1)
