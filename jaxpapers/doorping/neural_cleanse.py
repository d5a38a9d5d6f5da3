"""Neural Cleanse: the smallest patch that sends every image to a label, for all labels (Wang et al., S&P 2019)."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpapers.doorping.defence import anomaly_index


class Patch(NamedTuple):
  """A reverse-engineered trigger.

  Attributes:
    pattern: [..., height, width, channels] in [0, 1].
    mask: [..., height, width] in [0, 1].
    norm: [...] L1 norm of the mask.
    epochs: [...] int32, epochs run.
  """

  pattern: jax.Array
  mask: jax.Array
  norm: jax.Array
  epochs: jax.Array


class Flags(NamedTuple):
  """Outlier test on the norms of all labels.

  Attributes:
    index: [labels] anomaly index.
    flagged: [labels] bool: small and an outlier.
    median: of the norms.
    spread: 1.4826 times the median distance from the median.
  """

  index: jax.Array
  flagged: jax.Array
  median: jax.Array
  spread: jax.Array


def mini_batches(images: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
  """Cuts images into batches of one static shape.

  Args:
    images: [N, height, width, channels].
    size: images per batch; the last batch is filled with zeros of weight 0.

  Returns:
    (batches [ceil(N / size), size, height, width, channels], weights [ceil(N / size), size] 0 or 1).
  """
  images = np.asarray(images)
  size = min(size, len(images))
  count = -(-len(images) // size)
  fill = count * size - len(images)
  padded = np.concatenate([images, np.zeros((fill, *images.shape[1:]), images.dtype)])
  weights = (np.arange(count * size) < len(images)).astype(images.dtype)
  return padded.reshape(count, size, *images.shape[1:]), weights.reshape(count, size)


def stamp(images: jax.Array, pattern: jax.Array, mask: jax.Array) -> jax.Array:
  """(1 - M) x + M P for images [batch, height, width, channels], pattern [height, width, channels], mask [height,
  width]."""
  return (1.0 - mask[..., None]) * images + mask[..., None] * pattern


def patch_loss(
  logits_of: Callable[[jax.Array], jax.Array],
  pattern: jax.Array,
  mask: jax.Array,
  images: jax.Array,
  weights: jax.Array,
  label: jax.Array,
  weight_l1: float,
) -> jax.Array:
  """Mean cross entropy of the stamped images against `label`, plus weight_l1 times the L1 norm of the mask."""
  logits = logits_of(stamp(images, pattern, mask))
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.full(logits.shape[0], label))
  return jnp.sum(losses * weights) / jnp.sum(weights) + weight_l1 * jnp.sum(jnp.abs(mask))


def patch_step(
  logits_of: Callable[[jax.Array], jax.Array],
  optimizer: optax.GradientTransformation,
  patch: tuple[jax.Array, jax.Array],
  state: optax.OptState,
  images: jax.Array,
  weights: jax.Array,
  label: jax.Array,
  weight_l1: float = 0.01,
) -> tuple[tuple[jax.Array, jax.Array], optax.OptState]:
  """One step of `optimizer` on (pattern, mask), before it is clipped to [0, 1]. Arguments as in `patch_loss`."""
  grads = jax.grad(lambda patch: patch_loss(logits_of, *patch, images, weights, label, weight_l1))(patch)
  updates, state = optimizer.update(grads, state, patch)
  return optax.apply_updates(patch, updates), state


def invert(
  logits_of: Callable[[jax.Array], jax.Array],
  pattern: jax.Array,
  mask: jax.Array,
  batches: jax.Array,
  weights: jax.Array,
  label: jax.Array,
  *,
  weight_l1: float = 0.01,
  learning_rate: float = 0.005,
  epochs: int = 100,
  patience: int = 31,
) -> Patch:
  """The patch of one label: Adam over the batches in order, clipped to [0, 1] after every step.

  Args:
    logits_of: images in pixel space [batch, height, width, channels] in [0, 1] -> logits; it normalises inside.
    pattern: initial [height, width, channels].
    mask: initial [height, width].
    batches: [batches, batch, height, width, channels] of clean images.
    weights: [batches, batch] 0 for filling.
    label: int32 scalar.
    weight_l1: of the mask's norm.
    learning_rate: of Adam.
    epochs: at most.
    patience: ends after so many epochs without a smaller mask norm. Under vmap a finished label stands still.

  Returns:
    The patch after the last epoch.
  """
  chex.assert_rank([pattern, mask, batches, weights], [3, 2, 5, 2])
  chex.assert_equal_shape_prefix([pattern, mask], 2)
  optimizer = optax.adam(learning_rate)

  def step(carry, batch):
    patch, state = patch_step(logits_of, optimizer, *carry, *batch, label, weight_l1)
    return (jax.tree.map(lambda x: jnp.clip(x, 0.0, 1.0), patch), state), None

  def epoch(carry):
    patch, state, least, waited, done = carry
    (patch, state), _ = jax.lax.scan(step, (patch, state), (batches, weights))
    norm = jnp.sum(jnp.abs(patch[1]))
    waited = jnp.where(norm < least, 0, waited + 1)
    return patch, state, jnp.minimum(norm, least), waited, done + 1

  def going(carry):
    return (carry[4] < epochs) & (carry[3] < patience)

  patch = (pattern, mask)
  start = (patch, optimizer.init(patch), jnp.full((), jnp.inf, mask.dtype), jnp.int32(0), jnp.int32(0))
  (pattern, mask), _, _, _, done = jax.lax.while_loop(going, epoch, start)
  return Patch(pattern, mask, jnp.sum(jnp.abs(mask)), done)


def invert_all(
  logits_of: Callable[[jax.Array], jax.Array],
  batches: jax.Array,
  weights: jax.Array,
  classes: int,
  key: jax.Array,
  *,
  at_once: int | None = None,
  **options: float,
) -> Patch:
  """`invert` for every label as one program, from patterns and masks uniform in [0, 1].

  Source: Neural Cleanse (Wang et al., S&P 2019).

  Args:
    logits_of: as in `invert`.
    batches: as in `invert`.
    weights: as in `invert`.
    classes: number of labels.
    key: random key.
    at_once: labels under one vmap; None takes all of them.
    **options: of `invert`.

  Returns:
    Patches with a leading axis [classes].
  """
  height, width, channels = batches.shape[2:]
  patterns, masks = (
    jax.random.uniform(k, (classes, *shape), batches.dtype)
    for k, shape in zip(jax.random.split(key), ((height, width, channels), (height, width)), strict=True)
  )

  def one(args):
    return invert(logits_of, args[0], args[1], batches, weights, args[2], **options)

  return jax.lax.map(one, (patterns, masks, jnp.arange(classes)), batch_size=at_once or classes)


def flag(norms: jax.Array, limit: float = 2.0) -> Flags:
  """Labels whose norm is at most the median and whose anomaly index exceeds `limit`; `norms` is [labels]."""
  index, median, spread = anomaly_index(norms)
  return Flags(index, (norms <= median) & (index > limit), median, spread)
