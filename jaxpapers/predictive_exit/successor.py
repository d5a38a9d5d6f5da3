"""What public successor code of the same method changed: softmax criterion, engine on probabilities, one jump, memory.

The criterion is `scores.max_prob` >= beta (0.95 there). These repair the dependence on activation levels and on
constants added to all logits, not the dependence on the order of the classes. The weights and the treatment of ages in
`multi_prediction` follow the description of that code in words, not the code itself.
"""

import chex
import jax
import jax.numpy as jnp

from jaxpapers.predictive_exit.policies import Walk, confident
from jaxpapers.predictive_exit.tables import Array

ONES = (1.0, 1.0, 1.0)


def _add_neighbours(logits: jax.Array, kernel: jax.Array) -> jax.Array:
  """Correlation with a short odd kernel along the classes, zeros outside, same length."""
  half = kernel.shape[0] // 2
  classes = logits.shape[-1]
  padded = jnp.pad(logits, [(0, 0)] * (logits.ndim - 1) + [(half, half)])
  return sum(kernel[i] * padded[..., i : i + classes] for i in range(kernel.shape[0]))


def class_conv_steps(logits: Array, theta: Array, kernel: Array = ONES, rounds: int = 8) -> jax.Array:
  """Successor's engine: neighbouring classes are added until the largest probability exceeds theta (strictly).

  At most min(rounds, exits after k) rounds at exit k; the last of them is not tested but returned. `theta` is compared
  with the threshold of the exit that is asked (one number in the successor's code).

  Args:
    logits: [samples, exits, classes].
    theta: one threshold or [exits].
    kernel: odd length, along the class axis, zeros outside.
    rounds: most rounds.

  Returns:
    [samples, exits] int32.
  """
  logits, kernel = jnp.asarray(logits), jnp.asarray(kernel)
  exits = logits.shape[1]

  def add(value, _):
    value = _add_neighbours(value, kernel)
    return value, jnp.max(jax.nn.softmax(value, axis=-1), axis=-1) > theta

  _, over = jax.lax.scan(add, logits, length=rounds)
  limit = jnp.clip(exits - 1 - jnp.arange(exits), 1, rounds)
  last = jnp.arange(1, rounds + 1)[:, None, None] >= limit
  return (jnp.argmax(over | last, axis=0) + 1).astype(jnp.int32)


def multi_prediction_steps(
  history: Array, count: Array, theta: Array, left: Array, kernel: Array = ONES, rounds: int = 8
) -> jax.Array:
  """Successor's engine on the logits of the last visited exits: older ones are convolved once more per step of age.

  With p_a the softmax of the logits of age a (0 = newest) after i + 1 + a rounds and weights 3, 2, 1: the first round
  at which a class has sum_a w_a p_a > theta * sum_a w_a; at most min(rounds, left), the last untested.

  Args:
    history: [samples, 3, classes], newest first.
    count: [samples] int, how many of them exist.
    theta: one threshold.
    left: exits after the present one.
    kernel: odd length, along the class axis.
    rounds: most rounds.

  Returns:
    [samples] int32.
  """
  kernel = jnp.asarray(kernel)
  ages = history.shape[1]
  weights = (ages - jnp.arange(ages))[None, :] * (jnp.arange(ages)[None, :] < count[:, None])
  weights = weights.astype(history.dtype)
  aged = jnp.stack([_repeat(history[:, age], kernel, age) for age in range(ages)], axis=1)

  def add(value, _):
    value = _add_neighbours(value, kernel)
    p = jnp.einsum('na,nak->nk', weights, jax.nn.softmax(value, axis=-1))
    return value, jnp.max(p, axis=-1) > theta * jnp.sum(weights, axis=-1)

  _, over = jax.lax.scan(add, aged, length=rounds)
  limit = jnp.clip(left, 1, rounds)
  last = jnp.arange(1, rounds + 1)[:, None] >= limit
  return (jnp.argmax(over | last, axis=0) + 1).astype(jnp.int32)


def _repeat(logits: jax.Array, kernel: jax.Array, times: int) -> jax.Array:
  for _ in range(times):
    logits = _add_neighbours(logits, kernel)
  return logits


def single_jump(scores: Array, theta: Array, steps: Array, start: Array | int = 0) -> Walk:
  """Successor variant: one forecast at `start`; the exit that it names is taken unconditionally.

  Arguments and result as for `predictive`.
  """
  samples, exits = jnp.shape(scores)
  sure = confident(scores, theta)
  first = jnp.full(samples, start, jnp.int32)
  step = jnp.take_along_axis(jnp.asarray(steps).astype(jnp.int32), first[:, None], axis=1)[:, 0]
  leave = jnp.take_along_axis(sure, first[:, None], axis=1)[:, 0]
  target = jnp.minimum(first + step, exits - 1)
  taken = jnp.where(leave, first, target)
  index = jnp.arange(exits)
  visited = (index == first[:, None]) | (index == taken[:, None])
  predicted = jnp.where((index == first[:, None]) & ~leave[:, None], target[:, None], -1)
  return Walk(taken, visited, (~leave).astype(jnp.int32), predicted)


def multi_prediction(
  logits: Array, scores: Array, theta: Array, start: Array | int = 0, kernel: Array = ONES, rounds: int = 8
) -> Walk:
  """The predictive walk whose forecasts look at the last three visited exits (`multi_prediction_steps`).

  Args:
    logits: [samples, exits, classes].
    scores: [samples, exits], largest probability of every exit.
    theta: one threshold, in 0..1.
    start: first exit that is run.
    kernel: of the engine.
    rounds: most rounds of a forecast.

  Returns:
    The walk.
  """
  logits = jnp.asarray(logits)
  chex.assert_equal_shape_prefix([logits, scores], 2)
  samples, exits, classes = logits.shape
  sure = confident(scores, theta)

  def visit(state, column):
    target, taken, history, count = state
    k, sure_k, logits_k = column
    here = target == k
    onward = here & ~sure_k
    seen = jnp.concatenate([logits_k[:, None], history[:, :-1]], axis=1)
    history = jnp.where(onward[:, None, None], seen, history)
    count = jnp.where(onward, jnp.minimum(count + 1, history.shape[1]), count)
    step = multi_prediction_steps(history, count, theta, exits - 1 - k, kernel, rounds)
    target = jnp.where(onward, jnp.minimum(k + step, exits - 1), target)
    return (target, jnp.where(here & sure_k, k, taken), history, count), (here, jnp.where(onward, target, -1))

  begin = (
    jnp.full(samples, start, jnp.int32),
    jnp.full(samples, exits - 1, jnp.int32),
    jnp.zeros((samples, 3, classes), logits.dtype),
    jnp.zeros(samples, jnp.int32),
  )
  columns = (jnp.arange(exits, dtype=jnp.int32), sure.T, logits.swapaxes(0, 1))
  (_, taken, _, _), (visited, predicted) = jax.lax.scan(visit, begin, columns)
  visited = visited.T
  return Walk(taken, visited, jnp.sum(visited, axis=1, dtype=jnp.int32) - 1, predicted.T)
