"""Running a network that really stops: one image through nested conditionals, or a batch that shrinks as images leave.

Both give the exits and logits that the table of all exits and a walk over it give. A network is two functions,
`segment(carry, k)` and `head(carry, k)` as `MultiExit` has them, with k = 0..E and head E the classifier.
`decide(logits, k)` says of logits [batch, classes] whether to leave exit k (bool [batch]) and else how many exits to go
on (int [batch]).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.predictive_exit.prediction import confidence_ratio, forecast_steps
from jaxpapers.predictive_exit.tables import Array
from jaxpapers.predictive_exit.vgg import Carry

Segment = Callable[[Carry, int], Carry]
Head = Callable[[Carry, int], jax.Array]
Decide = Callable[[jax.Array, int], tuple[jax.Array, jax.Array]]


class Left(NamedTuple):
  """Where images left.

  Attributes:
    exit: [batch] int32, E for the classifier.
    logits: [batch, classes] of that exit.
    visited: [batch, E] bool, exit layers that were run for the image.
  """

  exit: jax.Array
  logits: jax.Array
  visited: jax.Array


def threshold_decision(score: Callable[[jax.Array], jax.Array], theta: float) -> Decide:
  """Classic early exit: leave when score >= theta, else look at the next exit."""

  def decide(logits: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    del k
    return score(logits) >= theta, jnp.ones(logits.shape[0], jnp.int32)

  return decide


def official_decision(
  thresholds: Array, beta: float, *, rounds: int = 8, clip_target: bool = True, official_quirks: bool = False
) -> Decide:
  """The official criterion and prediction engine, image by image (see `prediction.official_walk`)."""
  levels = jnp.asarray(thresholds)
  exits = levels.shape[0]

  def decide(logits: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    # The engine at exit k needs the thresholds behind it: the logits stand for every exit, and row k is taken.
    every = jnp.broadcast_to(logits[:, None], (logits.shape[0], exits, logits.shape[1]))
    sure = confidence_ratio(every, levels, beta, official_quirks=official_quirks)[:, k] >= 1
    step = forecast_steps(every, levels, beta, rounds)[:, k]
    left = exits - 1 - k
    if clip_target:
      step = jnp.minimum(step, left) if left else jnp.ones_like(step)
    return sure, step

  return decide


def leave_early(segment: Segment, head: Head, exits: int, decide: Decide, carry: Carry, start: int = 0) -> Left:
  """One image through a network that stops where it leaves. Source: this library's own.

  Every exit is a `lax.cond` whose other branch is the rest of the network. Under vmap a conditional becomes a choice
  between values that are both computed: never vmap this; a batch goes through `leave_early_batch`.

  Args:
    segment: see the module.
    head: see the module.
    exits: E.
    decide: see the module.
    carry: before the first segment, batch 1.
    start: first exit that is run, from 0; E runs the plain network.

  Raises:
    ValueError: for a batch, or a start outside 0..E.
  """
  batch = jax.tree.leaves(carry)[0].shape[0]
  if batch != 1:
    raise ValueError(f'leave_early takes one image, not {batch}: use leave_early_batch.')
  if not 0 <= start <= exits:
    raise ValueError(f'The starting exit must be in 0..{exits}, not {start}.')
  logits_like = jax.eval_shape(lambda c: _whole(segment, head, exits, c), carry)

  def rest(k: int, carry: Carry, target: jax.Array, visited: jax.Array) -> Left:
    carry = segment(carry, k)
    if k == exits:
      return Left(jnp.full(1, exits, jnp.int32), head(carry, k), visited[None])

    def visit(carry: Carry):
      logits = head(carry, k).astype(logits_like.dtype)
      sure, step = decide(logits, k)
      return logits, sure[0], jnp.where(sure[0], k, k + step[0]).astype(jnp.int32)

    def skip(carry: Carry):
      del carry
      return jnp.zeros(logits_like.shape, logits_like.dtype), jnp.zeros((), bool), target

    here = target == k
    logits, sure, onward = jax.lax.cond(here, visit, skip, carry)
    visited = visited.at[k].set(here)
    return jax.lax.cond(
      sure,
      lambda carry: Left(jnp.full(1, k, jnp.int32), logits, visited[None]),
      lambda carry: rest(k + 1, carry, onward, visited),
      carry,
    )

  return rest(0, carry, jnp.int32(start), jnp.zeros(exits, bool))


def _whole(segment: Segment, head: Head, exits: int, carry: Carry) -> jax.Array:
  for k in range(exits + 1):
    carry = segment(carry, k)
  return head(carry, exits)


def bucket(count: int) -> int:
  """The smallest power of two that holds `count`."""
  return 1 << max(count - 1, 0).bit_length()


def leave_early_batch(
  segment: Segment, head: Head, exits: int, decide: Decide, carry: Carry, start: int = 0
) -> tuple[Left, np.ndarray]:
  """A batch that shrinks: images that left are taken out, and a head runs on the rows alone that asked for it.

  Shapes are static under jit, so the rows are padded to powers of two; the loop over exits is on the host. Pass jitted
  functions with static `k`: each is compiled once per exit and bucket that occurs.

  Source: this library's own.

  Args:
    segment: see the module.
    head: see the module.
    exits: E.
    decide: see the module.
    carry: before the first segment, any batch.
    start: first exit that is run, from 0; E runs the plain network.

  Returns:
    (Left in the original order, rows [E + 1, 2] that segments and heads ran on, padding included: the cost of the
    batch mode).

  Raises:
    ValueError: for a start outside 0..E.
  """
  if not 0 <= start <= exits:
    raise ValueError(f'The starting exit must be in 0..{exits}, not {start}.')
  batch = jax.tree.leaves(carry)[0].shape[0]
  alive, target = np.arange(batch), np.full(batch, start)
  taken, visited = np.full(batch, exits, np.int32), np.zeros((batch, exits), bool)
  found: dict[int, np.ndarray] = {}
  ran = np.zeros((exits + 1, 2), np.int64)
  carry = _rows(carry, _padded(np.arange(batch)))
  for k in range(exits + 1):
    if not len(alive):
      break
    carry = segment(carry, k)
    ran[k, 0] = len(jax.tree.leaves(carry)[0])
    asked = np.flatnonzero(target[alive] == k) if k < exits else np.arange(len(alive))
    if not len(asked):
      continue
    rows = _padded(asked)
    logits = head(_rows(carry, rows), k)
    ran[k, 1] = len(rows)
    if k < exits:
      sure, step = (np.asarray(x)[: len(asked)] for x in decide(logits, k))
      visited[alive[asked], k] = True
      target[alive[asked]] = k + step
    else:
      sure = np.ones(len(asked), bool)
    logits = np.asarray(logits)
    for place in np.flatnonzero(sure):
      image = alive[asked[place]]
      taken[image], found[image] = k, logits[place]
    stay = np.delete(np.arange(len(alive)), asked[sure])
    if len(stay) < len(alive):
      alive = alive[stay]
      if len(alive) and bucket(len(alive)) < ran[k, 0]:
        carry = _rows(carry, _padded(stay))
      elif len(alive):
        # The same size of bucket: rows move to the front, no shape changes.
        carry = _rows(carry, np.pad(stay, (0, ran[k, 0] - len(stay)), mode='edge'))
  logits = np.stack([found[i] for i in range(batch)])
  return Left(taken, logits, visited), ran


def _padded(rows: np.ndarray) -> np.ndarray:
  """Row numbers padded to a bucket by repeating the last."""
  return np.pad(rows, (0, bucket(len(rows)) - len(rows)), mode='edge')


def _rows(carry: Carry, rows: np.ndarray) -> Carry:
  return jax.tree.map(lambda x: jnp.take(x, rows, axis=0), carry)
