"""The official method on a table of logits: exit criterion, prediction engine, walk, and the engine's score.

As in the authors' code. Arrays are [samples, exits, classes]; exits are counted from 0 here, and the
index E (one past the last exit layer) is the network's own classifier. `start` is the official LAYER: exit numbers from
1, 0 for the plain network. `beta` may be traced: sweep it by vmap, the logits are computed once.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.predictive_exit.policies import predictive
from jaxpapers.predictive_exit.tables import Array

ROUNDS = 8  # of the engine; 5 in the authors' VGG for STL-10
SCORED_AS_FAR = 8  # `official_score`: a later exit counts as forecast right if the forecast is this


class OfficialWalk(NamedTuple):
  """How samples went through the network.

  Attributes:
    exit: [samples] int32, exit taken from 0; E is the classifier.
    visited: [samples, E] bool, exit layers that were run.
    predictions: [samples] int32, forecasts made.
    label: [samples] int32, argmax of the logits at the exit taken.
  """

  exit: jax.Array
  visited: jax.Array
  predictions: jax.Array
  label: jax.Array


class Forecasts(NamedTuple):
  """The first forecast of every sample against what came (what the authors' code scores).

  Attributes:
    exit: [samples] int32, exit taken when every exit from the start on is tested.
    actual: [samples] int32, exits from the start to it, -1 where the start was confident or nothing is stored.
    predicted: [samples] int32, forecast made at the start, -1 where the start was confident.
  """

  exit: jax.Array
  actual: jax.Array
  predicted: jax.Array


def activation_level(logits: Array) -> jax.Array:
  """m(z), the largest absolute logit; [..., classes] -> [...]. A large negative logit counts as well.

  Source: the exit criterion of the authors' code.
  """
  return jnp.max(jnp.abs(logits), axis=-1)


def confidence_ratio(logits: Array, thresholds: Array, beta: Array, *, official_quirks: bool = False) -> jax.Array:
  """m(z) / (beta A), at which an exit is left when it is at least 1.

  Args:
    logits: [samples, E, classes] of the exit layers, without the classifier.
    thresholds: [E] activation levels A > 0.
    beta: > 0.
    official_quirks: at the first exit the authors' code computes (m / beta) * A.

  Returns:
    [samples, E], dtype of the logits.

  Raises:
    ValueError: for a beta or thresholds that cannot be, where they are known before tracing.
  """
  check_official(logits, thresholds, beta)
  level = activation_level(logits)
  beta, thresholds = jnp.asarray(beta), jnp.asarray(thresholds)
  ratio = level / (beta * thresholds).astype(level.dtype)
  if official_quirks:
    first = level[:, 0] / beta.astype(level.dtype) * thresholds[0].astype(level.dtype)
    ratio = ratio.at[:, 0].set(first)
  return ratio


def forecast_steps(logits: Array, thresholds: Array, beta: Array, rounds: int = ROUNDS) -> jax.Array:
  """The prediction engine: in how many exits the activation will pass the threshold.

  Round i replaces the logits by the sums of neighbouring CLASSES (zeros outside) and compares the largest absolute
  value with beta times the threshold of the i-th exit further on (the last one beyond the end), strictly. The answer is
  the first round that passes, else `rounds`. It depends on the order of the classes, as the authors' does.

  Args:
    logits: [samples, E, classes] of the exit layers.
    thresholds: [E].
    beta: > 0.
    rounds: R.

  Returns:
    [samples, E] int32 in 1..rounds, for every exit as if it had been visited and not taken. Computed in float64 where
    it is enabled (as the authors do), else in float32.
  """
  check_official(logits, thresholds, beta)
  if rounds < 1:
    raise ValueError(f'The engine needs at least one round, not {rounds}.')
  exits = logits.shape[1]
  z = jnp.asarray(logits).astype(jnp.result_type(float))
  limits = jnp.asarray(beta) * jnp.asarray(thresholds, z.dtype)

  def advance(i, state):
    z, step = state
    padded = jnp.pad(z, ((0, 0), (0, 0), (1, 1)))
    z = padded[..., :-2] + z + padded[..., 2:]
    limit = limits[jnp.minimum(jnp.arange(exits) + 1 + i, exits - 1)]
    hit = (activation_level(z) > limit) & (step == 0)
    return z, jnp.where(hit, i + 1, step)

  _, step = jax.lax.fori_loop(0, rounds, advance, (z, jnp.zeros(logits.shape[:2], jnp.int32)))
  return jnp.where(step == 0, rounds, step).astype(jnp.int32)


def official_walk(
  logits: Array,
  thresholds: Array,
  beta: Array,
  start: int,
  *,
  rounds: int = ROUNDS,
  clip_target: bool = True,
  official_quirks: bool = False,
) -> OfficialWalk:
  """`normal_forward` of the authors for every sample on its own: test the start, then only forecast exits.

  Args:
    logits: [samples, E + 1, classes] of all exit layers and, last, the classifier.
    thresholds: [E].
    beta: > 0.
    start: number of the first exit that is tested, 1..E; 0 runs the plain network.
    rounds: of the engine.
    clip_target: a forecast beyond exit E tests exit E (the authors' VGG); else no exit is tested any more (ResNet).
    official_quirks: see `confidence_ratio`.

  Returns:
    The walk.

  Raises:
    ValueError: for a start outside 0..E, and as `confidence_ratio`.
  """
  chex.assert_rank(logits, 3)
  exits = logits.shape[1] - 1
  _check_start(start, exits)
  heads = logits[:, :exits]
  ratio = confidence_ratio(heads, thresholds, beta, official_quirks=official_quirks)
  step = forecast_steps(heads, thresholds, beta, rounds)
  return walk(logits, ratio, step, start, clip_target=clip_target)


def walk(logits: Array, ratio: Array, step: Array, start: Array | int, *, clip_target: bool = True) -> OfficialWalk:
  """`official_walk` with any criterion and any engine.

  Args:
    logits: [samples, E + 1, classes].
    ratio: [samples, E], at least 1 where a visited exit is left.
    step: [samples, E] int >= 1.
    start: 0..E; may be traced.
    clip_target: see `official_walk`.
  """
  exits = ratio.shape[1]
  if clip_target:
    # Exits E - 1 - k further lies the last exit layer; behind it, only the classifier.
    left = exits - 1 - jnp.arange(exits)
    step = jnp.where(left > 0, jnp.minimum(step, left), 1)
  scores = jnp.pad(ratio, ((0, 0), (0, 1)))
  steps = jnp.pad(step, ((0, 0), (0, 1)), constant_values=1)
  way = predictive(scores, 1.0, steps, jnp.where(jnp.asarray(start) == 0, exits, jnp.asarray(start) - 1))
  taken = jnp.take_along_axis(jnp.asarray(logits), way.exit[:, None, None], axis=1)[:, 0]
  label = jnp.argmax(taken, axis=-1).astype(jnp.int32)
  # The classifier is no forecast's target that was run and refused: forecasts are the visits that were not taken.
  visited = way.visited[:, :exits]
  refused = visited & (jnp.arange(exits) != way.exit[:, None])
  return OfficialWalk(way.exit, visited, jnp.sum(refused, axis=1, dtype=jnp.int32), label)


def accuracy_forward(
  logits: Array,
  thresholds: Array,
  beta: Array,
  start: int,
  *,
  rounds: int = ROUNDS,
  classifier_jump: str = 'layers',
  official_quirks: bool = False,
) -> Forecasts:
  """How the authors score the engine: the forecast of the first exit against a test of every later one.

  Args:
    logits: [samples, E + 1, classes].
    thresholds: [E].
    beta: > 0.
    start: 1..E.
    rounds: of the engine.
    classifier_jump: what is stored where no exit fires: 'layers' E + 1 - start (the authors' VGG), 'exits' E - start
      (their ResNet, one short), 'none' nothing (their VGG for STL-10, whose lists then shift against each other).
    official_quirks: see `confidence_ratio`.

  Raises:
    ValueError: for a start outside 1..E, another `classifier_jump`, and as `confidence_ratio`.
  """
  chex.assert_rank(logits, 3)
  exits = logits.shape[1] - 1
  _check_start(start, exits, least=1)
  jumps = {'layers': exits + 1 - start, 'exits': exits - start, 'none': -1}
  if classifier_jump not in jumps:
    raise ValueError(f'classifier_jump={classifier_jump!r} is not known; known: {", ".join(jumps)}.')
  heads = logits[:, :exits]
  sure = confidence_ratio(heads, thresholds, beta, official_quirks=official_quirks) >= 1
  sure &= jnp.arange(exits) >= start - 1
  taken = jnp.where(jnp.any(sure, axis=1), jnp.argmax(sure, axis=1), exits).astype(jnp.int32)
  at_once = taken == start - 1
  actual = jnp.where(taken == exits, jumps[classifier_jump], taken - (start - 1))
  step = forecast_steps(heads, thresholds, beta, rounds)[:, start - 1]
  return Forecasts(taken, jnp.where(at_once, -1, actual), jnp.where(at_once, -1, step))


def official_score(actual: Array, predicted: Array) -> jax.Array:
  """Share of samples whose forecast equals the actual jump, or is 8 where that is beyond 8; NaN with nothing to score.

  Source: the authors' code.

  Args:
    actual: [samples] of `accuracy_forward`.
    predicted: [samples] of `accuracy_forward`.
  """
  actual, predicted = jnp.asarray(actual), jnp.asarray(predicted)
  counted = (actual >= 0) & (predicted >= 0)
  hit = (actual == predicted) | ((actual > SCORED_AS_FAR) & (predicted == SCORED_AS_FAR))
  total = jnp.sum(counted).astype(jnp.result_type(float))
  return jnp.where(total > 0, jnp.sum(hit & counted) / jnp.maximum(total, 1), jnp.nan)


def forecast_errors(actual: Array, predicted: Array) -> dict[str, jax.Array]:
  """Mean absolute error in exits and the shares of early, exact and late forecasts; NaN with nothing to score.

  Source: our extension.
  """
  actual, predicted = jnp.asarray(actual), jnp.asarray(predicted)
  counted = (actual >= 0) & (predicted >= 0)
  total = jnp.sum(counted)

  def mean(values):
    return jnp.where(total > 0, jnp.sum(jnp.where(counted, values, 0)) / jnp.maximum(total, 1), jnp.nan)

  difference = predicted - actual
  return {
    'mean_error': mean(jnp.abs(difference)),
    'early': mean(difference < 0),
    'exact': mean(difference == 0),
    'late': mean(difference > 0),
  }


def check_official(logits: Array, thresholds: Array, beta: Array) -> None:
  """Refuses settings that cannot be; what is traced is not looked at.

  Raises:
    ValueError: for logits of another rank, another number of thresholds than exits, a threshold that is zero, negative
      or NaN, or a beta that is not positive.
  """
  chex.assert_rank(logits, 3)
  exits = logits.shape[1]
  if np.shape(thresholds) != (exits,):
    raise ValueError(f'{exits} exits need {exits} thresholds, not an array of shape {np.shape(thresholds)}.')
  if not isinstance(beta, jax.core.Tracer) and not np.all(np.asarray(beta) > 0):
    raise ValueError(f'beta must be positive, not {beta}.')
  if not isinstance(thresholds, jax.core.Tracer):
    bad = np.flatnonzero(~(np.asarray(thresholds) > 0))
    if bad.size:
      raise ValueError(
        f'The threshold of exit {bad[0] + 1} is {np.asarray(thresholds)[bad[0]]}: an activation level must be positive.'
      )


def _check_start(start: int, exits: int, least: int = 0) -> None:
  if not least <= start <= exits:
    raise ValueError(f'The starting layer must be in {least}..{exits}, not {start}.')
