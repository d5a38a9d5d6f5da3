"""Exit policies: which exits a sample visits and where it leaves, as pure functions of a table of scores (extension).

One rule for all: at a visited exit k a sample leaves when score >= theta (a NaN is never confident); the last exit, the
network's own classifier, always leaves. Shapes: `samples` N, `exits` L. The official walk is in `prediction`.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxpapers.predictive_exit.tables import Array, Costs


class Walk(NamedTuple):
  """How samples went through the network.

  Attributes:
    exit: [samples] int32, index of the exit taken.
    visited: [samples, exits] bool, exits whose head was run.
    predictions: [samples] int32, forecasts made (one after every visited exit that was not taken).
    predicted: [samples, exits] int32, the exit that was forecast at exit k, -1 where none was.
  """

  exit: jax.Array
  visited: jax.Array
  predictions: jax.Array
  predicted: jax.Array


def confident(scores: Array, theta: Array) -> jax.Array:
  """Whether a sample leaves when it visits an exit: score >= theta, and always at the last.

  Args:
    scores: [samples, exits].
    theta: one threshold or [exits].

  Returns:
    [samples, exits] bool.
  """
  chex.assert_rank(scores, 2)
  sure = jnp.asarray(scores) >= jnp.asarray(theta)
  return sure.at[:, -1].set(True)


def classic(scores: Array, theta: Array, allowed: Array | None = None, start: Array | int = 0) -> Walk:
  """Early exit as usual: every allowed exit from `start` on is run until one is confident.

  Source: BranchyNet (Teerapittayanon et al., ICPR 2016).

  Args:
    scores: [samples, exits].
    theta: one threshold or [exits].
    allowed: [exits] bool, exits that exist (the last always does); None for all.
    start: first exit that is run.

  Returns:
    The walk; no forecasts are made.
  """
  sure = confident(scores, theta)
  exits = sure.shape[1]
  index = jnp.arange(exits)
  usable = index >= start
  if allowed is not None:
    usable &= jnp.asarray(allowed)
  usable = usable.at[-1].set(True)
  # The last exit is always among them. A minimum is many times as fast as argmax, which carries its indices along.
  taken = jnp.min(jnp.where(sure & usable, index.astype(jnp.int32), exits), axis=1)
  visited = usable & (index <= taken[:, None])
  none = jnp.full(sure.shape, -1, jnp.int32)
  return Walk(taken, visited, jnp.zeros_like(taken), none)


def every(exits: int, stride: int) -> jax.Array:
  """Mask [exits] of a coarse network: every `stride`-th exit (stride-1, 2 stride-1, ...) and the last."""
  index = jnp.arange(exits)
  return (index % stride == stride - 1) | (index == exits - 1)


def start_exit(exits_taken: Array, exits: int, z: float = 1.0) -> jax.Array:
  """Starting exit from calibration: clip(floor(mean - z * sd), 0, exits - 1) of the exits a classic walk takes.

  `z = inf` gives 0. Source: our extension; the authors' start is a setting.
  """
  taken = jnp.asarray(exits_taken).astype(jnp.result_type(float))
  # 0 * inf is NaN: with all samples at one exit an infinite z still means "from the first exit".
  spread = jnp.where(jnp.isinf(z), jnp.inf, z * jnp.std(taken))
  return jnp.clip(jnp.floor(jnp.mean(taken) - spread), 0, exits - 1).astype(jnp.int32)


def predictive(scores: Array, theta: Array, steps: Array, start: Array | int = 0) -> Walk:
  """Runs only forecast exits: after an unconfident exit k the next one is min(k + steps[sample, k], last).

  Source: the paper's walk over forecast exits, with any score and engine.

  Args:
    scores: [samples, exits].
    theta: one threshold or [exits].
    steps: [samples, exits] int >= 1, what the engine says at every exit (see `engines`).
    start: first exit that is run.

  Returns:
    The walk.
  """
  chex.assert_equal_shape([scores, steps])
  sure = confident(scores, theta)
  samples, exits = sure.shape

  def visit(state, column):
    target, taken = state
    k, sure_k, steps_k = column
    here = target == k
    leave = here & sure_k
    onward = here & ~sure_k
    target = jnp.where(onward, jnp.minimum(k + steps_k, exits - 1), target)
    return (target, jnp.where(leave, k, taken)), (here, jnp.where(onward, target, -1))

  begin = (jnp.full(samples, start, jnp.int32), jnp.full(samples, exits - 1, jnp.int32))
  columns = (jnp.arange(exits, dtype=jnp.int32), sure.T, jnp.asarray(steps).astype(jnp.int32).T)
  (_, taken), (visited, predicted) = jax.lax.scan(visit, begin, columns)
  visited = visited.T
  return Walk(taken, visited, jnp.sum(visited, axis=1, dtype=jnp.int32) - 1, predicted.T)


def patience(labels: Array, times: int, allowed: Array | None = None, start: Array | int = 0) -> Walk:
  """Leaves at the first visited exit that names the label of the `times - 1` visited exits before it.

  Source: PABEE (Zhou et al., NeurIPS 2020); an extension.

  Args:
    labels: [samples, exits] int, argmax of every exit.
    times: consecutive visited exits that must agree; 1 leaves at the first.
    allowed: [exits] bool; None for all.
    start: first exit that is run.
  """
  labels = jnp.asarray(labels)
  exits = labels.shape[1]
  usable = jnp.arange(exits) >= start
  if allowed is not None:
    usable &= jnp.asarray(allowed)
  usable = usable.at[-1].set(True)

  def visit(state, column):
    last, run = state
    label, use = column
    run = jnp.where(use, jnp.where(label == last, run + 1, 1), run)
    return (jnp.where(use, label, last), run), run

  begin = (jnp.full(labels.shape[:1], -1, labels.dtype), jnp.zeros(labels.shape[:1], jnp.int32))
  _, runs = jax.lax.scan(visit, begin, (labels.T, usable))
  # The count only moves at usable exits, so that `classic` with it as the score is the whole rule.
  return classic(runs.T, times, allowed, start)


def accuracy(table_logits: Array, labels: Array, exits_taken: Array) -> jax.Array:
  """Share of samples whose label at the exit taken is right.

  Args:
    table_logits: [samples, exits, classes].
    labels: [samples].
    exits_taken: [samples].
  """
  rows = jnp.take_along_axis(jnp.asarray(table_logits), exits_taken[:, None, None], axis=1)[:, 0]
  return jnp.mean(jnp.argmax(rows, axis=-1) == jnp.asarray(labels), dtype=jnp.result_type(float))


def walk_macs(walk: Walk, costs: Costs, engine_macs: float) -> jax.Array:
  """Multiply-adds of every sample: segments up to the exit, heads visited, forecasts. Source: our extension.

  Args:
    walk: of a policy.
    costs: work of segments and heads.
    engine_macs: of one forecast.

  Returns:
    [samples].
  """
  segments = jnp.cumsum(jnp.asarray(costs.segment_macs))[walk.exit]
  heads = walk.visited.astype(segments.dtype) @ jnp.asarray(costs.head_macs).astype(segments.dtype)
  return segments + heads + walk.predictions * engine_macs


def plain_macs(costs: Costs) -> jax.Array:
  """Multiply-adds of the network without exits: all segments and the classifier."""
  return jnp.sum(jnp.asarray(costs.segment_macs)) + jnp.asarray(costs.head_macs)[-1]
