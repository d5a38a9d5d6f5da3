"""Engines that forecast how many layers further a sample will be confident, learned on a calibration set (extension).

Every engine is lowered to one dense array `steps[sample, exit] >= 1`, so that one walk (`policies.predictive`) serves
all. The engine of the paper, which adds neighbouring activations, is in `prediction`, its successor's versions in
`successor`. Shapes: `samples` N, `exits` L, `bins` B.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxpapers.predictive_exit.policies import confident
from jaxpapers.predictive_exit.tables import Array

# (calibration scores, scores, theta) -> steps
Engine = Callable[[Array, Array, Array], jax.Array]


def next_confident(scores: Array, theta: Array) -> jax.Array:
  """First exit after k at which a sample is confident, else the last; [samples, exits] int32.

  The entry of the last exit is `exits`: there is nothing after it.
  """
  sure = confident(scores, theta)
  exits = sure.shape[1]
  index = jnp.where(sure, jnp.arange(exits, dtype=jnp.int32), exits)
  ahead = jax.lax.cummin(index[:, ::-1], axis=1)[:, ::-1]
  return jnp.concatenate([ahead[:, 1:], jnp.full_like(ahead[:, :1], exits)], axis=1)


def next_steps(scores: Array) -> jax.Array:
  """Always 1: the walk is then classic early exit, bit for bit. Source: our extension."""
  return jnp.ones(jnp.shape(scores), jnp.int32)


def constant_steps(scores: Array, step: int) -> jax.Array:
  """Always `step`: the constant that a forecast has to beat."""
  return jnp.full(jnp.shape(scores), step, jnp.int32)


def oracle_steps(scores: Array, theta: Array) -> jax.Array:
  """Exactly to the next confident exit: what no engine can know."""
  return next_confident(scores, theta) - jnp.arange(jnp.shape(scores)[1], dtype=jnp.int32)


def score_edges(scores: Array, bins: int) -> jax.Array:
  """Bin edges: the i / bins quantiles (linear interpolation) of the scores of all exits but the last; [bins - 1]."""
  levels = jnp.arange(1, bins) / bins
  return jnp.quantile(jnp.asarray(scores)[:, :-1].ravel(), levels)


def score_bins(edges: Array, scores: Array) -> jax.Array:
  """Bin of every score, a score on an edge in the upper one, NaN in the last; int32 of the shape of `scores`."""
  # A few comparisons are many times as fast as a search, and not below an edge is what a NaN is.
  below = (jnp.asarray(scores) < edge for edge in jnp.unstack(jnp.asarray(edges)))
  return sum((jnp.logical_not(b).astype(jnp.int32) for b in below), jnp.zeros(jnp.shape(scores), jnp.int32))


class StepTable(NamedTuple):
  """What the table engine learned.

  Attributes:
    edges: [bins - 1] score edges.
    steps: [exits, bins] int32.
    counts: [exits, bins] int32, unconfident calibration samples in every bin.
  """

  edges: jax.Array
  steps: jax.Array
  counts: jax.Array


def fit_table(
  scores: Array, theta: Array, q: Array | float, bins: int, min_count: int = 10, edges: Array | None = None
) -> StepTable:
  """The lower q-quantile of the distance to the next confident exit, by exit and score bin. Source: our extension.

  Only samples that are unconfident at an exit count there. A bin with fewer than `min_count` takes the quantile of its
  exit, an exit without any takes 1. q is the caution: small looks early and often, large rarely.

  Args:
    scores: [samples, exits] of the calibration set.
    theta: one threshold or [exits].
    q: 0..1; the quantile is sorted(d)[max(ceil(q n) - 1, 0)].
    bins: number of score bins.
    min_count: see above.
    edges: [bins - 1]; None takes them from the scores.

  Returns:
    The table; the row of the last exit is 1.
  """
  chex.assert_rank(scores, 2)
  samples, exits = jnp.shape(scores)
  edges = score_edges(scores, bins) if edges is None else jnp.asarray(edges)
  where = score_bins(edges, scores)
  unsure = ~confident(scores, theta)
  distance = jnp.where(unsure, oracle_steps(scores, theta), 0)
  # Counts of every distance: the smallest one whose cumulative count reaches the rank is the lower quantile.
  cell = jnp.arange(exits, dtype=jnp.int32) * bins + where
  counts = jnp.zeros((exits * bins, exits), jnp.int32).at[cell, distance].add(unsure.astype(jnp.int32))
  by_bin = counts.reshape(exits, bins, exits)
  by_exit = jnp.sum(by_bin, axis=1, keepdims=True)

  def quantile(histogram: jax.Array) -> jax.Array:
    cumulative = jnp.cumsum(histogram, axis=-1)
    total = cumulative[..., -1:]
    rank = jnp.maximum(jnp.ceil(q * total.astype(jnp.result_type(float))), 1)
    return jnp.where(total[..., 0] > 0, jnp.argmax(cumulative >= rank, axis=-1), 1).astype(jnp.int32)

  filled = jnp.sum(by_bin, axis=-1)
  steps = jnp.where(filled < min_count, quantile(by_exit), quantile(by_bin))
  return StepTable(edges, steps, filled)


def table_steps(table: StepTable, scores: Array) -> jax.Array:
  """Steps of the table engine: one look-up per exit; [samples, exits] int32. Source: our extension."""
  scores, columns = jnp.asarray(scores), jnp.unstack(table.steps, axis=1)
  # As `score_bins` counts, without its look-ups: those make XLA compute the table again for every one of them.
  steps = jnp.broadcast_to(columns[0], scores.shape)
  for edge, column in zip(jnp.unstack(jnp.asarray(table.edges)), columns[1:], strict=True):
    steps = jnp.where(scores < edge, steps, column)
  return steps


def fit_ramp(scores: Array) -> jax.Array:
  """Mean score by depth with falls clipped to zero, from 0; [exits]. Source: our extension."""
  rise = jnp.maximum(jnp.diff(jnp.mean(jnp.asarray(scores), axis=0)), 0.0)
  return jnp.concatenate([jnp.zeros(1, rise.dtype), jnp.cumsum(rise)])


def ramp_steps(curve: Array, scores: Array, theta: Array) -> jax.Array:
  """Confidence climbs from here as the average does: smallest n with s + G[k+n] - G[k] >= theta[k+n], else to the last.

  Source: our extension.

  Args:
    curve: [exits] of `fit_ramp`.
    scores: [samples, exits].
    theta: one threshold or [exits].

  Returns:
    [samples, exits] int32; 1 at the last exit.
  """
  curve, scores = jnp.asarray(curve), jnp.asarray(scores)
  exits = curve.shape[0]
  index = jnp.arange(exits)
  limit = jnp.broadcast_to(jnp.asarray(theta), (exits,))
  # reach[n, k, j]: the score forecast at exit j from exit k.
  reach = scores[:, :, None] + curve[None, None, :] - curve[None, :, None]
  hit = (reach >= limit) & (index[None, :] > index[:, None])
  first = jnp.argmax(hit.at[..., -1].set(True), axis=-1)
  return jnp.maximum(first - index, 1).astype(jnp.int32)


def fit_linear(scores: Array, theta: Array, ridge: float = 1e-3) -> jax.Array:
  """Per exit: distance to the next confident exit ~ a + b * score, least squares with penalty ridge * n on b alone.

  Source: our extension.

  Args:
    scores: [samples, exits] of the calibration set; the unconfident ones of an exit count there.
    theta: one threshold or [exits].
    ridge: see above.

  Returns:
    [exits, 2] of (a, b); (1, 0) where fewer than two samples count.
  """
  scores = jnp.asarray(scores)
  unsure = ~confident(scores, theta)
  weight = unsure.astype(scores.dtype)
  distance = jnp.where(unsure, oracle_steps(scores, theta), 0).astype(scores.dtype)
  # A confident or NaN score has weight 0 and may not reach the sums as NaN.
  value = jnp.where(unsure, scores, 0.0)
  n = jnp.sum(weight, axis=0)
  count = jnp.maximum(n, 1.0)
  mean_s, mean_d = jnp.sum(value, axis=0) / count, jnp.sum(distance, axis=0) / count
  centred = weight * (value - mean_s)
  slope = jnp.sum(centred * (distance - mean_d), axis=0) / (jnp.sum(centred**2, axis=0) + ridge * count)
  enough = n >= 2
  return jnp.stack([jnp.where(enough, mean_d - slope * mean_s, 1.0), jnp.where(enough, slope, 0.0)], axis=-1)


def linear_steps(weights: Array, scores: Array) -> jax.Array:
  """clip(floor(a + b s + 1/2), 1, exits - 1 - k); [samples, exits] int32. Source: our extension."""
  weights = jnp.asarray(weights)
  exits = weights.shape[0]
  value = jnp.floor(weights[:, 0] + weights[:, 1] * jnp.asarray(scores) + 0.5)
  most = jnp.maximum(exits - 1 - jnp.arange(exits), 1)
  return jnp.clip(jnp.where(jnp.isnan(value), 1.0, value), 1, most).astype(jnp.int32)


def engine(name: str, q: float = 0.25, bins: int = 6, ridge: float = 1e-3, edges: Array | None = None) -> Engine:
  """An engine as a function (calibration scores, scores, theta) -> steps that learns and forecasts in one call.

  Args:
    name: table, ramp, linear, next or oracle.
    q: caution of the table, 0..1.
    bins: score bins of the table.
    ridge: of the linear engine.
    edges: [bins - 1] of the table; None takes them from the calibration scores, in every call again.

  Raises:
    ValueError: for another name, a q outside 0..1 or no bin.
  """
  if not 0.0 <= q <= 1.0:
    raise ValueError(f'The quantile q={q} is outside 0..1.')
  if bins < 1:
    raise ValueError(f'The table needs at least one bin, not {bins}.')
  makers: dict[str, Engine] = {
    'table': lambda calibration, scores, theta: table_steps(
      fit_table(calibration, theta, q, bins, edges=edges), scores
    ),
    'ramp': lambda calibration, scores, theta: ramp_steps(fit_ramp(calibration), scores, theta),
    'linear': lambda calibration, scores, theta: linear_steps(fit_linear(calibration, theta, ridge), scores),
    'next': lambda calibration, scores, theta: next_steps(scores),
    'oracle': lambda calibration, scores, theta: oracle_steps(scores, theta),
  }
  if name not in makers:
    raise ValueError(f'The engine {name!r} is not known; known: {", ".join(makers)}.')
  return makers[name]
