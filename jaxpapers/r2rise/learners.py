"""What a learner is here, and how many are trained at once. Bring your own: three pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpapers.r2rise.demos import Demonstrations, transition_index

BATCHINGS = ('vmap', 'map')


class Frames(NamedTuple):
  """Demonstrations as a learner reads them: one list of frames, kept once on the device whatever the masks.

  Attributes:
    observations: [n + tail, ...] in their stored dtype; the tail is only ever looked up through `next_index`.
    actions: [n].
    next_index: [n] int32, what was seen after each frame.
    follows: [n] bool, whether `next_index` means anything.
  """

  observations: jax.Array
  actions: jax.Array
  next_index: jax.Array
  follows: jax.Array


class Learner(NamedTuple):
  """An imitation learner.

  Attributes:
    name: for tables.
    train: (key, frames, weights [n] in [0, 1]) -> params. Pure; frames of weight 0 must not matter. It is vmapped over
      keys and weights.
    act: (params, observations [copies, ...], key) -> actions [copies] int32.
  """

  name: str
  train: Callable[[jax.Array, Frames, jax.Array], Any]
  act: Callable[[Any, jax.Array, jax.Array], jax.Array]


def make_frames(demos: Demonstrations) -> Frames:
  """Demonstrations [E, T] as frames [E * T] (trajectory * T + t), followed by the last observations."""
  flat = demos.observations.reshape(-1, *demos.observations.shape[2:])
  if demos.last_observation is not None:
    flat = jnp.concatenate([flat, demos.last_observation])
  next_index, follows = transition_index(demos)
  actions = demos.actions.reshape(-1, *demos.actions.shape[2:])
  return Frames(jnp.asarray(flat), jnp.asarray(actions), jnp.asarray(next_index), jnp.asarray(follows))


def train_masked(learner: Learner, keys: jax.Array, frames: Frames, weights: jax.Array, batching: str = 'vmap') -> Any:
  """Trains a fresh learner per mask. Source: the paper's retraining on masked demonstrations.

  Args:
    learner: what to train.
    keys: [learners] keys, of initial values and batches.
    frames: shared by all; they are not copied.
    weights: [learners, n] in [0, 1], 0 for dropped frames and padding.
    batching: 'vmap' trains all at once, 'map' one after another in the same program: vmapped convolutions with weights
      of their own are slow on CPU.

  Returns:
    Parameters with a leading axis [learners].

  Raises:
    ValueError: for an unknown batching or weights that do not fit the frames.
  """
  if batching not in BATCHINGS:
    raise ValueError(f'batching={batching!r} is not known; known: {", ".join(BATCHINGS)}.')
  if weights.ndim != 2 or weights.shape[1] != len(frames.actions) or len(keys) != len(weights):
    raise ValueError(
      f'weights have shape {weights.shape} for {len(keys)} keys and {len(frames.actions)} frames; '
      '[learners, frames] is needed.'
    )

  def one(key_and_weights):
    return learner.train(key_and_weights[0], frames, key_and_weights[1])

  return jax.vmap(one)((keys, weights)) if batching == 'vmap' else jax.lax.map(one, (keys, weights))


def draw_frames(key: jax.Array, weights: jax.Array, size: int) -> jax.Array:
  """Indices [size] of frames, drawn with replacement in proportion to their weights [n].

  Where all weights are zero the result is frame 0; its learner is replaced by chance (see `rollouts.evaluate`).
  """
  cumulative = jnp.cumsum(weights)
  points = jax.random.uniform(key, (size,)) * cumulative[-1]
  return jnp.minimum(jnp.searchsorted(cumulative, points, side='right'), len(weights) - 1) * (cumulative[-1] > 0)


def epoch_order(key: jax.Array, kept: jax.Array, epoch: jax.Array) -> jax.Array:
  """A random order [n] of the frames for one epoch, those `kept` [n] bool first."""
  draws = jax.random.uniform(jax.random.fold_in(key, epoch), kept.shape)
  return jnp.argsort(jnp.where(kept, draws, 2.0))


def walk_frames(key: jax.Array, kept: jax.Array, step: jax.Array, size: int) -> jax.Array:
  """Indices [size] of batch `step` of a walk without replacement through the kept frames, reshuffled every epoch.

  A batch may straddle two epochs, as in the authors' program. A pure function of (key, kept, step).
  """
  count = jnp.maximum(kept.sum(), 1)
  place = step * size + jnp.arange(size)
  # A batch longer than an epoch meets more than two orders: those in between all use the second.
  now = place[0] // count
  orders = jnp.stack([epoch_order(key, kept, now), epoch_order(key, kept, now + 1)])
  return orders[jnp.minimum(place // count - now, 1), place % count]
