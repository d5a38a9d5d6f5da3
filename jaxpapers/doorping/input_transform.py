"""Input transformations before the victim: a median filter, and shrinking with padding at a random offset."""

import chex
import jax
import jax.numpy as jnp

from jaxpapers.ops.resize import bilinear


def median_filter(images: jax.Array, size: int = 3) -> jax.Array:
  """Median of the size x size pixels (an odd size) around each, borders repeated; images and result are [batch, height,
  width, channels]."""
  chex.assert_rank(images, 4)
  height, width = images.shape[1:3]
  before = size // 2
  padded = jnp.pad(images, ((0, 0), (before, size - 1 - before), (before, size - 1 - before), (0, 0)), mode='edge')
  shifts = [padded[:, i : i + height, j : j + width] for i in range(size) for j in range(size)]
  return jnp.sort(jnp.stack(shifts, axis=-1), axis=-1)[..., size * size // 2]


def shrink_and_pad(images: jax.Array, key: jax.Array, fill: jax.Array, by: int = 2) -> jax.Array:
  """Shrinks each image by `by` pixels and pads it back at an offset of its own.

  Args:
    images: [batch, height, width, channels].
    key: random key of the offsets.
    fill: value of the padding, a scalar or [channels] (black, in normalised space).
    by: pixels, less than height and width.
  """
  chex.assert_rank(images, 4)
  batch, height, width, _ = images.shape
  if not 0 < by < min(height, width):
    raise ValueError(f'Shrinking takes 1 to {min(height, width) - 1} pixels of a {height} x {width} image, not {by}.')
  small = bilinear(images, (height - by, width - by))
  canvas = jnp.broadcast_to(jnp.asarray(fill, images.dtype), images.shape[1:])
  offsets = jax.random.randint(key, (batch, 2), 0, by + 1)

  def paste(image, offset):
    return jax.lax.dynamic_update_slice(canvas, image, (offset[0], offset[1], 0))

  return jax.vmap(paste)(small, offsets)
