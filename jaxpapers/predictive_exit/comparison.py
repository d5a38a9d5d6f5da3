"""Criteria and engines of the official kind at equal accuracy: chosen on calibration, reported on test images."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.predictive_exit.prediction import activation_level, check_official, forecast_steps, walk
from jaxpapers.predictive_exit.scores import max_prob
from jaxpapers.predictive_exit.tables import ExitTable

CRITERIA = ('official', 'mean_max_abs', 'max_prob')
ENGINES = ('next', 'official', 'step 2')
STARTS = (1, 4, 7)  # official layers that a policy may start at; chosen on the calibration set, as the threshold is


class Curve(NamedTuple):
  """A policy at several thresholds.

  Attributes:
    accuracy: [thresholds] at the exits taken.
    compute: [thresholds] work relative to the plain network.
    heads: [thresholds] exit layers run per sample.
    exits: [thresholds, E + 1] share of samples by exit taken.
  """

  accuracy: jax.Array
  compute: jax.Array
  heads: jax.Array
  exits: jax.Array


class Choice(NamedTuple):
  """A policy at the threshold and start that were cheapest on the calibration set.

  Attributes:
    criterion: one of CRITERIA.
    engine: one of ENGINES.
    start: official layer.
    threshold: beta, or the probability.
    accuracy: on the test set.
    compute: on the test set, relative to the plain network.
    heads: exit layers run per test sample.
  """

  criterion: str
  engine: str
  start: int
  threshold: float
  accuracy: float
  compute: float
  heads: float


@functools.partial(jax.jit, static_argnames=('criterion', 'engine', 'rounds', 'clip_target'))
def policy_curve(
  table: ExitTable,
  levels: jax.Array,
  thresholds: jax.Array,
  segments: jax.Array,
  heads: jax.Array,
  *,
  criterion: str,
  engine: str,
  start: jax.Array | int,
  rounds: int = 8,
  clip_target: bool = True,
) -> Curve:
  """All thresholds of one policy in one program.

  Args:
    table: logits [samples, E + 1, classes] and labels.
    levels: [E] activation levels A that belong to `criterion`; not used by 'max_prob'.
    thresholds: [thresholds] values of beta, or probabilities for 'max_prob'.
    segments: [E + 1] multiply-adds.
    heads: [E + 1] multiply-adds; the last is the classifier.
    criterion: one of CRITERIA.
    engine: one of ENGINES; 'official' is not defined for 'max_prob'.
    start: official layer.
    rounds: of the official engine.
    clip_target: see `prediction.official_walk`.

  Raises:
    ValueError: for an unknown criterion or engine.
  """
  if criterion not in CRITERIA:
    raise ValueError(f'The criterion {criterion!r} is not known; known: {", ".join(CRITERIA)}.')
  if engine not in ENGINES:
    raise ValueError(f'The engine {engine!r} is not known; known: {", ".join(ENGINES)}.')
  logits = jnp.asarray(table.logits)
  early = logits[:, :-1]
  exits = early.shape[1]
  scores = max_prob(early) if criterion == 'max_prob' else activation_level(early) / levels
  plain = jnp.sum(segments) + heads[-1]
  depth = jnp.cumsum(segments)

  def one(threshold):
    if engine == 'official':
      step = forecast_steps(early, levels, threshold, rounds)
    else:
      step = jnp.full(early.shape[:2], 1 if engine == 'next' else 2, jnp.int32)
    way = walk(logits, scores / threshold, step, start, clip_target=clip_target)
    last = way.exit == exits
    work = depth[way.exit] + way.visited @ heads[:-1] + last * heads[-1]
    ran = way.visited.sum(1)
    share = jnp.mean(way.exit[:, None] == jnp.arange(exits + 1), axis=0)
    return Curve(jnp.mean(way.label == table.labels), jnp.mean(work) / plain, jnp.mean(ran * 1.0), share)

  return jax.lax.map(one, thresholds)


def threshold_grid(table: ExitTable, levels: np.ndarray, criterion: str, count: int) -> np.ndarray:
  """`count` quantiles of the calibration scores, and one threshold that none reaches; ascending, positive."""
  early = jnp.asarray(table.logits)[:, :-1]
  scores = max_prob(early) if criterion == 'max_prob' else activation_level(early) / levels
  scores = np.asarray(scores, np.float64).ravel()
  grid = np.quantile(scores, np.linspace(0.02, 1.0, count))
  return np.append(np.maximum(grid, 1e-6), 2 * scores.max() + 1)


def choose(
  calibration: ExitTable,
  test: ExitTable,
  levels: np.ndarray,
  segments: np.ndarray,
  heads: np.ndarray,
  *,
  criterion: str,
  engine: str,
  drop: float,
  count: int = 30,
  rounds: int = 8,
  clip_target: bool = True,
  starts: tuple[int, ...] = STARTS,
) -> Choice:
  """The cheapest threshold and start whose CALIBRATION accuracy is at least that of the classifier less `drop`.

  Nothing is chosen on the test set: it gives the accuracy and the compute of the answer alone. The grid holds a
  threshold that no sample reaches, which is the plain network, so that there always is an answer.
  """
  if criterion != 'max_prob':
    check_official(calibration.logits[:, :-1], levels, 1.0)
  target = np.mean(np.argmax(calibration.logits[:, -1], -1) == calibration.labels) - drop
  grid = threshold_grid(calibration, levels, criterion, count)
  options = dict(criterion=criterion, engine=engine, rounds=rounds, clip_target=clip_target)
  best = (np.inf, 0, 0)
  for start in starts:
    curve = policy_curve(calibration, levels, grid, segments, heads, start=start, **options)
    cost = np.where(np.asarray(curve.accuracy) >= target, np.asarray(curve.compute), np.inf)
    place = int(np.argmin(cost))
    best = min(best, (float(cost[place]), start, place))
  _, start, place = best
  curve = policy_curve(test, levels, grid, segments, heads, start=start, **options)
  accuracy, compute, ran = (float(x[place]) for x in curve[:3])
  return Choice(criterion, engine, start, float(grid[place]), accuracy, compute, ran)
