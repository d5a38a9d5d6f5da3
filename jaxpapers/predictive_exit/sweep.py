"""All thresholds of all policies in one call, and the threshold that calibration data chooses.

A scheme is a policy with everything but its threshold settled. Engines learn from the calibration set again for every
threshold, since the threshold decides what "confident" means. Thresholds are chosen on calibration data and reported on
test data only. Shapes: `samples` N, `exits` L, `thresholds` T.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpapers.predictive_exit import engines, policies, prediction
from jaxpapers.predictive_exit.policies import Walk
from jaxpapers.predictive_exit.scores import Score
from jaxpapers.predictive_exit.tables import Array, Costs, ExitTable


class Scored(NamedTuple):
  """A table with its confidence scores.

  Attributes:
    scores: [samples, exits].
    logits: [samples, exits, classes].
    labels: [samples].
  """

  scores: jax.Array
  logits: jax.Array
  labels: jax.Array


# (calibration, table, theta) -> walk of the table's samples
Scheme = Callable[[Scored, Scored, Array], Walk]


class Shares(NamedTuple):
  """What the samples of a set ran, on the mean: enough to price a scheme in any cost book (`compute_of`).

  Attributes:
    reach: [thresholds, exits] share of samples that reach a segment.
    visits: [thresholds, exits] share that runs a head.
    forecasts: [thresholds] forecasts per sample.
  """

  reach: jax.Array
  visits: jax.Array
  forecasts: jax.Array


class Curve(NamedTuple):
  """A scheme at every threshold; all [thresholds] but the shares.

  Attributes:
    calibration_accuracy: share right on the calibration set.
    calibration_compute: multiply-adds there, relative to the network without exits.
    accuracy: share right on the test set.
    compute: multiply-adds there, relative to the network without exits.
    heads: heads run per test sample.
    depth: mean exit of the test samples.
    calibration_shares: what the calibration set ran.
    shares: what the test set ran.
  """

  calibration_accuracy: jax.Array
  calibration_compute: jax.Array
  accuracy: jax.Array
  compute: jax.Array
  heads: jax.Array
  depth: jax.Array
  calibration_shares: Shares
  shares: Shares


def scored(table: ExitTable, score: Score) -> Scored:
  """The table with `score` of its logits."""
  logits = jnp.asarray(table.logits)
  return Scored(score(logits), logits, jnp.asarray(table.labels))


def official_scored(table: ExitTable, thresholds: Array) -> Scored:
  """The table with the official criterion as its score: m(z) / A, which beta (the threshold) is compared with."""
  logits = jnp.asarray(table.logits)
  ratio = prediction.confidence_ratio(logits[:, :-1], thresholds, 1.0)
  return Scored(jnp.pad(ratio, ((0, 0), (0, 1))), logits, jnp.asarray(table.labels))


def _start(calibration: Scored, theta: Array, from_start: bool) -> jax.Array | int:
  if not from_start:
    return 0
  exits = calibration.scores.shape[1]
  return policies.start_exit(policies.classic(calibration.scores, theta).exit, exits)


def classic_scheme(stride: int = 1, from_start: bool = False) -> Scheme:
  """Early exit at every `stride`-th exit; `from_start` begins at the exit that calibration gives."""

  def walk(calibration: Scored, table: Scored, theta: Array) -> Walk:
    allowed = None if stride == 1 else policies.every(table.scores.shape[1], stride)
    return policies.classic(table.scores, theta, allowed, _start(calibration, theta, from_start))

  return walk


def predictive_scheme(engine: engines.Engine, from_start: bool = False) -> Scheme:
  """Only forecast exits are run."""

  def walk(calibration: Scored, table: Scored, theta: Array) -> Walk:
    steps = engine(calibration.scores, table.scores, theta)
    return policies.predictive(table.scores, theta, steps, _start(calibration, theta, from_start))

  return walk


def official_scheme(thresholds: Array, start: int, rounds: int = prediction.ROUNDS) -> Scheme:
  """The paper's engine; `start` counts from 0, targets are clipped to the last exit layer as in the authors' VGG."""

  def walk(calibration: Scored, table: Scored, theta: Array) -> Walk:
    del calibration  # the engine learns nothing
    steps = prediction.forecast_steps(table.logits[:, :-1], thresholds, theta, rounds)
    left = steps.shape[1] - 1 - jnp.arange(steps.shape[1])
    steps = jnp.where(left > 0, jnp.minimum(steps, left), 1)
    steps = jnp.pad(steps, ((0, 0), (0, 1)), constant_values=1)
    return policies.predictive(table.scores, theta, steps, start)

  return walk


def threshold_grid(scores: Array, count: int = 200) -> jax.Array:
  """Quantiles of the scores of all exits but the last, ascending, and infinity: [count]."""
  inner = jnp.asarray(scores)[:, :-1].ravel()
  return jnp.append(jnp.quantile(inner, jnp.linspace(0.0, 1.0, count - 1)), jnp.inf)


def join(calibration: Scored, test: Scored) -> tuple[Scored, Callable[[Any], tuple[Any, Any]]]:
  """(both sets in one table, function that splits what comes of it): a policy is then compiled once for both."""
  count = calibration.scores.shape[0]
  both = jax.tree.map(lambda *x: jnp.concatenate(x), calibration, test)

  def split(result: Any) -> tuple[Any, Any]:
    return jax.tree.map(lambda x: x[:count], result), jax.tree.map(lambda x: x[count:], result)

  return both, split


def compute_of(shares: Shares, costs: Costs, engine_macs: Array | float | None = None) -> jax.Array:
  """Mean work of every threshold relative to the network without exits; [thresholds].

  Args:
    shares: of a curve.
    costs: any cost book; only its multiply-adds count, which may be joules as well.
    engine_macs: of one forecast; None for one per exit.
  """
  segments, heads = jnp.asarray(costs.segment_macs), jnp.asarray(costs.head_macs)
  engine_macs = float(segments.shape[0]) if engine_macs is None else engine_macs
  work = shares.reach @ segments + shares.visits @ heads + shares.forecasts * engine_macs
  return work / policies.plain_macs(costs)


def sweep(
  schemes: Mapping[str, Scheme],
  calibration: Scored,
  test: Scored,
  costs: Costs,
  thresholds: Array,
  engine_macs: float | None = None,
) -> dict[str, Curve]:
  """Every scheme at every threshold; jit it and it is one program.

  Args:
    schemes: by name.
    calibration: what engines and starting exits learn from.
    test: what is reported.
    costs: work of segments and heads.
    thresholds: [thresholds] or [thresholds, exits].
    engine_macs: of one forecast; None for one per exit.
  """
  both, split = join(calibration, test)
  correct = split(jnp.argmax(both.logits, axis=-1) == both.labels[:, None])
  exits = test.scores.shape[1]
  dtype = jnp.result_type(float)

  def summary(walk: Walk, right: jax.Array) -> tuple[jax.Array, jax.Array, Shares]:
    hit = jnp.take_along_axis(right, walk.exit[:, None], axis=1)
    reach = jnp.mean(walk.exit[:, None] >= jnp.arange(exits), axis=0, dtype=dtype)
    visits = jnp.mean(walk.visited, axis=0, dtype=dtype)
    shares = Shares(reach, visits, jnp.mean(walk.predictions, dtype=dtype))
    return jnp.mean(hit, dtype=dtype), compute_of(shares, costs, engine_macs), shares

  def at(theta: jax.Array) -> dict[str, Curve]:
    curves = {}
    for name, scheme in schemes.items():
      walks = split(scheme(calibration, both, theta))
      (known, known_compute, known_shares), (accuracy, compute, shares) = map(summary, walks, correct)
      heads, depth = jnp.sum(shares.visits), jnp.sum(shares.reach) - 1
      curves[name] = Curve(known, known_compute, accuracy, compute, heads, depth, known_shares, shares)
    return curves

  return jax.lax.map(at, jnp.asarray(thresholds))


def choose(accuracy: Array, cost: Array, target: Array) -> jax.Array:
  """Index of the cheapest entry with accuracy >= target; of the most accurate one where none reaches it.

  Args:
    accuracy: [thresholds], of the calibration set.
    cost: [thresholds], of the calibration set.
    target: least accuracy.
  """
  accuracy, cost = jnp.asarray(accuracy), jnp.asarray(cost)
  reached = accuracy >= target
  return jnp.where(jnp.any(reached), jnp.argmin(jnp.where(reached, cost, jnp.inf)), jnp.argmax(accuracy))


def envelope(cost: Array, accuracy: Array) -> tuple[jax.Array, jax.Array]:
  """(cost, accuracy) sorted by cost, with accuracy the best at that cost or less: the Pareto front as steps."""
  order = jnp.argsort(jnp.asarray(cost))
  return jnp.asarray(cost)[order], jax.lax.cummax(jnp.asarray(accuracy)[order])


def hypervolume(cost: Array, accuracy: Array, reference_cost: float, reference_accuracy: float) -> jax.Array:
  """Area that a front dominates beside a reference point (the network without exits): cost saved times accuracy kept.

  The front may lie below the reference's accuracy: accuracy is measured from `reference_accuracy`.
  """
  cost, accuracy = envelope(cost, accuracy)
  width = jnp.clip(jnp.append(cost[1:], reference_cost), None, reference_cost) - jnp.minimum(cost, reference_cost)
  return jnp.sum(width * jnp.maximum(accuracy - reference_accuracy, 0.0))
