"""Differentiable Siamese augmentation (Zhao & Bilen, ICML 2021).

Every operation takes its random draws as arguments, one per image, or one for all of them (Siamese) by broadcasting.
"""

from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp

OPERATIONS = ('color', 'crop', 'cutout', 'flip', 'scale', 'rotate')
RATIO_SCALE, RATIO_ROTATE, CROP_PAD, CUTOUT = 1.2, 15.0, 0.125, 0.5


def _each(x: jax.Array, images: jax.Array) -> jax.Array:
  """[batch] or [] draws shaped to multiply images [batch, height, width, channels]."""
  return jnp.broadcast_to(x, len(images))[:, None, None, None]


def brightness(images: jax.Array, u: jax.Array, strength: float = 1.0) -> jax.Array:
  """images + (u - 1/2) strength, u in [0, 1)."""
  return images + (_each(u, images) - 0.5) * strength


def saturation(images: jax.Array, u: jax.Array, strength: float = 2.0) -> jax.Array:
  """Distance of every pixel from its mean over channels times strength u."""
  mean = images.mean(3, keepdims=True)
  return (images - mean) * (_each(u, images) * strength) + mean


def contrast(images: jax.Array, u: jax.Array, strength: float = 0.5) -> jax.Array:
  """Distance from the image's mean times (u + strength)."""
  mean = images.mean((1, 2, 3), keepdims=True)
  return (images - mean) * (_each(u, images) + strength) + mean


def crop(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
  """Output pixel (i, j) is input pixel (i + rows, j + columns), zero outside; integer draws."""
  height, width = images.shape[1:3]

  def one(image, row, column):
    padded = jnp.pad(image, ((height, height), (width, width), (0, 0)))
    return jax.lax.dynamic_slice(padded, (height + row, width + column, 0), image.shape)

  count = len(images)
  return jax.vmap(one)(images, jnp.broadcast_to(rows, count), jnp.broadcast_to(columns, count))


def cutout(images: jax.Array, rows: jax.Array, columns: jax.Array, ratio: float = CUTOUT) -> jax.Array:
  """A square of side int(ratio size + 1/2) around (rows, columns) set to 0, clipped at the border."""
  keep = []
  for length, centre in ((images.shape[1], rows), (images.shape[2], columns)):
    side = int(length * ratio + 0.5)
    first = jnp.broadcast_to(centre, len(images))[:, None] - side // 2
    # Places beyond the border fall on the border itself, as the authors clamp them.
    low, high = (jnp.clip(first + end, 0, length - 1) for end in (0, side - 1))
    place = jnp.arange(length)
    keep.append((place >= low) & (place <= high))
  hole = keep[0][:, :, None, None] & keep[1][:, None, :, None]
  return jnp.where(hole, 0.0, images)


def flip(images: jax.Array, u: jax.Array, probability: float = 0.5) -> jax.Array:
  """Left-right mirror where u < probability."""
  return jnp.where(_each(u, images) < probability, images[:, :, ::-1], images)


def affine(images: jax.Array, matrix: jax.Array) -> jax.Array:
  """Bilinear sampling with zero fill at matrix @ (x, y), coordinates in [-1, 1] between the borders of the image.

  Args:
    images: [batch, height, width, channels].
    matrix: [batch, 2, 2] or [2, 2].
  """
  count, height, width, _ = images.shape
  y, x = ((jnp.arange(n, dtype=images.dtype) * 2 + 1) / n - 1 for n in (height, width))
  grid = jnp.stack(jnp.broadcast_arrays(x[None, :], y[:, None]), -1)
  place = jnp.einsum('bij,hwj->bhwi', jnp.broadcast_to(matrix, (count, 2, 2)), grid)
  column, row = ((place[..., i] + 1) * n / 2 - 0.5 for i, n in ((0, width), (1, height)))

  def one(image, row, column):
    sample = lambda channel: jax.scipy.ndimage.map_coordinates(channel, [row, column], 1, 'constant')  # noqa: E731
    return jax.vmap(sample, 2, 2)(image)

  return jax.vmap(one)(images, row, column)


def scale(images: jax.Array, sx: jax.Array, sy: jax.Array) -> jax.Array:
  """Sampling at (sx x, sy y)."""
  zero = jnp.zeros_like(jnp.asarray(sx))
  return affine(images, jnp.stack([jnp.stack([sx, zero], -1), jnp.stack([zero, sy], -1)], -2))


def rotate(images: jax.Array, theta: jax.Array) -> jax.Array:
  """Sampling at the grid turned by `theta` radians."""
  cos, sin = jnp.cos(theta), jnp.sin(theta)
  return affine(images, jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)], -2))


def _color(key: jax.Array, images: jax.Array) -> jax.Array:
  first, second, third = jax.random.uniform(key, (3,))
  return contrast(saturation(brightness(images, first), second), third)


def _crop(key: jax.Array, images: jax.Array) -> jax.Array:
  reach = jnp.asarray([int(n * CROP_PAD + 0.5) for n in images.shape[1:3]])
  return crop(images, *jax.random.randint(key, (2,), -reach, reach + 1))


def _cutout(key: jax.Array, images: jax.Array) -> jax.Array:
  # The centre is drawn from 0 to the side itself, which is one past the last pixel (the side is even).
  sides = jnp.asarray([n + (1 - int(n * CUTOUT + 0.5) % 2) for n in images.shape[1:3]])
  return cutout(images, *jax.random.randint(key, (2,), 0, sides))


def _flip(key: jax.Array, images: jax.Array) -> jax.Array:
  return flip(images, jax.random.uniform(key))


def _scale(key: jax.Array, images: jax.Array) -> jax.Array:
  return scale(images, *jax.random.uniform(key, (2,), minval=1 / RATIO_SCALE, maxval=RATIO_SCALE))


def _rotate(key: jax.Array, images: jax.Array) -> jax.Array:
  limit = jnp.deg2rad(RATIO_ROTATE)
  return rotate(images, jax.random.uniform(key, minval=-limit, maxval=limit))


_BRANCHES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
  'color': _color,
  'crop': _crop,
  'cutout': _cutout,
  'flip': _flip,
  'scale': _scale,
  'rotate': _rotate,
}


def siamese(operations: Sequence[str]) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """(key, images) -> images: one operation of `operations` is drawn, with one draw for all images.

  Equal keys give the same draw, so that real and synthetic batches are changed alike.

  Source: Zhao and Bilen, ICML 2021, and its code.

  Raises:
    ValueError: for an unknown or no operation.
  """
  unknown = [name for name in operations if name not in _BRANCHES]
  if unknown or not operations:
    raise ValueError(f'Unknown DSA strategy {unknown or operations}; it is made of {", ".join(OPERATIONS)}.')
  branches = [_BRANCHES[name] for name in operations]

  def augment(key: jax.Array, images: jax.Array) -> jax.Array:
    chex.assert_rank(images, 4)
    choice, draws = jax.random.split(key)
    return jax.lax.switch(jax.random.randint(choice, (), 0, len(branches)), branches, draws, images)

  return augment
