"""Triggers: masks, stamping, NAIVEATTACK's poisoning, and the DOORPING update."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

Penultimate = Callable[[Any, jax.Array], jax.Array]  # (params, images) -> activations after the nonlinearity
CLIPS = ('none', 'call', 'step')


def patch_slice(size: int, patch: int) -> slice:
  """Rows (and columns) of the patch in images of `size` pixels: [size - 1 - patch, size - 1).

  Raises:
    ValueError: for a patch that leaves no free border.
  """
  if not 1 <= patch <= size - 1:
    raise ValueError(f'A patch of {patch} pixels does not fit: it must lie between 1 and {size - 1}.')
  return slice(size - 1 - patch, size - 1)


def patch_mask(image_shape: Sequence[int], patch: int) -> np.ndarray:
  """float32 [height, width, channels]: 1 in the patch, 0 elsewhere. Source: the authors' code."""
  height, width, channels = image_shape
  mask = np.zeros((height, width, channels), np.float32)
  mask[patch_slice(height, patch), patch_slice(width, patch)] = 1.0
  return mask


def stamp_pixels(images: np.ndarray, patch: int, value: int = 255) -> np.ndarray:
  """uint8 [batch, height, width, channels] with the patch set to `value`: NAIVEATTACK's trigger.

  Source: the paper's NAIVEATTACK, as in the authors' code.
  """
  images = np.array(images)
  images[:, patch_slice(images.shape[1], patch), patch_slice(images.shape[2], patch)] = value
  return images


def stamp_pixels_svhn_published(images: np.ndarray, patch: int) -> np.ndarray:
  """What the authors' code does to SVHN: it takes [batch, channels, height, width] for channels-last.

  Rows of whole channels turn white instead of a corner; for patch = 3 nothing does. For replication only.

  Args:
    images: uint8 [batch, height, width, channels].
    patch: in pixels.
  """
  first = np.array(np.transpose(images, (0, 3, 1, 2)))
  rows, columns = first.shape[1], first.shape[2]
  first[:, rows - 1 - patch : rows - 1, columns - 1 - patch : columns - 1] = 255
  return np.transpose(first, (0, 2, 3, 1))


def stamp(images: jax.Array, trigger: jax.Array, mask: jax.Array) -> jax.Array:
  """images (1 - mask) + trigger mask, bit-equal to `images` outside the mask. Source: the paper's trigger insertion.

  Args:
    images: [batch, height, width, channels], normalised.
    trigger: [1, height, width, channels], normalised.
    mask: [height, width, channels], 0 or 1.
  """
  chex.assert_equal_shape_suffix((images, trigger, mask), 3)
  return jnp.where(mask > 0, trigger, images)


def poisoned_count(total: int, ratio: float) -> int:
  """floor(ratio * total) images carry the trigger.

  Raises:
    ValueError: for a ratio outside [0, 1], or a positive one that poisons no image.
  """
  if not 0.0 <= ratio <= 1.0:
    raise ValueError(f'The poison ratio must lie in [0, 1], not {ratio}.')
  count = math.floor(ratio * total)
  if ratio > 0 and count == 0:
    raise ValueError(f'A poison ratio of {ratio} poisons none of {total} images; at least {1 / total:.2g} is needed.')
  return count


def choose_poisoned(total: int, ratio: float, seed: int) -> np.ndarray:
  """bool [total]: the images, of any class, that carry the trigger; a function of the arguments alone."""
  chosen = np.zeros(total, bool)
  chosen[np.random.default_rng(seed).permutation(total)[: poisoned_count(total, ratio)]] = True
  return chosen


def check_target(target: int, classes: int) -> int:
  """`target` itself.

  Raises:
    ValueError: if it is no class.
  """
  if not 0 <= target < classes:
    raise ValueError(f'The trigger label {target} is no class: it must lie between 0 and {classes - 1}.')
  return target


def normalise(pixels: Any, mean: Any, std: Any) -> Any:
  """Pixels in 0..255 -> (pixels / 255 - mean) / std; the last axis is channels."""
  return (pixels / 255.0 - mean) / std


def pixel_range(mean: np.ndarray, std: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(lowest, highest) normalised value of an image file, each [channels]."""
  mean, std = np.asarray(mean), np.asarray(std)
  return (0.0 - mean) / std, (1.0 - mean) / std


def trigger_image(patch: np.ndarray, image_shape: Sequence[int], mean: np.ndarray, std: np.ndarray) -> np.ndarray:
  """[1, height, width, channels] normalised: `patch` [s, s, channels] (0..255) in its place on black."""
  height, width, _ = image_shape
  pixels = np.zeros(tuple(image_shape), np.float64)
  size = len(patch)
  pixels[patch_slice(height, size), patch_slice(width, size)] = patch
  return normalise(pixels, np.asarray(mean), np.asarray(std))[None].astype(np.float32)


def random_trigger(image_shape: Sequence[int], patch: int, mean: np.ndarray, std: np.ndarray, seed: int) -> np.ndarray:
  """DOORPING's start: a patch of random integers 1..255 on black, normalised. Source: the authors' code."""
  values = np.random.default_rng(seed).integers(1, 256, (patch, patch, image_shape[-1]))
  return trigger_image(values, image_shape, mean, std)


def clip_trigger(trigger: jax.Array, mask: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
  """The patch clamped to [low, high] (each [channels]); the rest is left alone. Source: this library's own."""
  return jnp.where(mask > 0, jnp.clip(trigger, low, high), trigger)


def round_trigger(trigger: jax.Array, mask: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
  """The nearest trigger that an image file can hold: clipped to the pixel range and rounded to uint8.

  Source: this library's own.
  """
  pixels = jnp.clip(jnp.round((trigger * std + mean) * 255.0), 0.0, 255.0)
  return jnp.where(mask > 0, normalise(pixels, mean, std), trigger)


def outside_range(trigger: np.ndarray, mask: np.ndarray, mean: np.ndarray, std: np.ndarray) -> float:
  """How far the patch leaves the pixel range, in normalised units; 0 if it fits."""
  low, high = pixel_range(mean, std)
  beyond = np.maximum(np.maximum(low - trigger, trigger - high), 0.0)
  return float(np.max(np.where(mask > 0, beyond, 0.0)))


def choose_neurons(kernel: jax.Array, count: int = 1) -> jax.Array:
  """The units whose incoming weights have the largest L1 norm, largest first, lowest index on ties.

  Source: the paper's DOORPING, as in the authors' code.

  Args:
    kernel: [inputs, units] of the last hidden linear layer.
    count: k.

  Returns:
    int32 [count].
  """
  chex.assert_rank(kernel, 2)
  return jax.lax.top_k(jnp.sum(jnp.abs(kernel), 0), count)[1]


class TriggerOptions(NamedTuple):
  """Of the DOORPING update; the defaults are the authors'.

  Attributes:
    alpha: the activation shall become alpha times what it is at the start of the call.
    topk: how many units.
    learning_rate: of Adam.
    max_steps: of Adam, per call.
    threshold: a loss below it ends the call.
    clip: 'none' (published), 'call' (to the given range after each call) or 'step' (after each Adam step).
  """

  alpha: float = 10.0
  topk: int = 1
  learning_rate: float = 0.08
  max_steps: int = 1000
  threshold: float = 0.5
  clip: str = 'none'


PUBLISHED = TriggerOptions()


class TriggerUpdate(NamedTuple):
  """Result of one call.

  Attributes:
    trigger: [1, height, width, channels].
    steps: int32, Adam steps taken.
    loss: at the last check.
    neurons: int32 [topk].
    start: [topk], activations at entry.
  """

  trigger: jax.Array
  steps: jax.Array
  loss: jax.Array
  neurons: jax.Array
  start: jax.Array


def update_trigger(
  penultimate: Penultimate,
  params: Any,
  kernel: jax.Array,
  trigger: jax.Array,
  mask: jax.Array,
  options: TriggerOptions = PUBLISHED,
  *,
  low: jax.Array | float = -jnp.inf,
  high: jax.Array | float = jnp.inf,
  max_steps: jax.Array | None = None,
) -> TriggerUpdate:
  """One DOORPING call: raises the chosen units' activation on the trigger image by Adam on the patch.

  Nothing moves where (alpha - 1)^2 mean(start^2) is below the threshold already, which includes dead units; the target
  is relative to the start, so calls ratchet upwards; without clipping the patch leaves the pixel range.

  Source: the paper's DOORPING, as in the authors' code.

  Args:
    penultimate: (params, images) -> [batch, units], after the nonlinearity.
    params: of the network; constant.
    kernel: [inputs, units] of the layer that gives `penultimate`.
    trigger: [1, height, width, channels], normalised; the patch on black.
    mask: [height, width, channels].
    options: see TriggerOptions.
    low: lower end of the pixel range for `options.clip`, [channels] or a number; infinities clip nothing.
    high: upper end.
    max_steps: a bound that may differ from lane to lane under vmap; None is that of the options.
  """
  chex.assert_rank(trigger, 4)
  if options.clip not in CLIPS:
    raise ValueError(f'Unknown clip mode {options.clip!r}; known: {", ".join(CLIPS)}.')
  limit = options.max_steps if max_steps is None else max_steps
  neurons = choose_neurons(kernel, options.topk)

  def activation(image):
    return penultimate(params, image)[0, neurons]

  start = activation(trigger)
  target = options.alpha * start

  def loss_of(image):
    return jnp.mean(jnp.square(activation(image) - target))

  value_and_grad = jax.value_and_grad(loss_of)
  beta1, beta2, eps = 0.9, 0.99, 1e-8

  # The gradient is carried, so that every pass through the network serves the check and the step after it.
  def unfinished(carry):
    _, _, _, step, loss, _ = carry
    return (step < limit) & ~(loss < options.threshold)

  def adam(carry):
    image, m, v, step, _, gradient = carry
    gradient = gradient * mask
    step = step + 1
    m = beta1 * m + (1 - beta1) * gradient
    v = beta2 * v + (1 - beta2) * jnp.square(gradient)
    count = step.astype(image.dtype)
    rate = options.learning_rate / (1 - beta1**count)
    image = image - rate * m / (jnp.sqrt(v) / jnp.sqrt(1 - beta2**count) + eps)
    if options.clip == 'step':
      image = clip_trigger(image, mask, low, high)
    return image, m, v, step, *value_and_grad(image)

  zeros = jnp.zeros_like(trigger)
  first = (trigger, zeros, zeros, jnp.zeros((), jnp.int32), *value_and_grad(trigger))
  image, _, _, steps, loss, _ = jax.lax.while_loop(unfinished, adam, first)
  if options.clip != 'none':
    image = jnp.where(limit > 0, clip_trigger(image, mask, low, high), image)
  return TriggerUpdate(image, steps, loss, neurons, start)
