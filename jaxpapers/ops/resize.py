"""Bilinear resizing and adaptive pooling of maps [batch, height, width, channels]."""

import chex
import jax
import jax.numpy as jnp
import numpy as np


def bilinear(x: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Bilinear interpolation with half-pixel centres and clamped borders, without antialiasing.

  Args:
    x: [batch, height, width, channels].
    size: (height, width) of the result.
  """
  chex.assert_rank(x, 4)
  shape = (x.shape[0], *size, x.shape[3])
  return x if x.shape == shape else jax.image.resize(x, shape, 'linear', antialias=False)


def bilinear_matrix(source: int, target: int) -> np.ndarray:
  """[target, source] float32: `matrix @ x` is what `bilinear` does along one axis."""
  place = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
  low = np.floor(place).astype(int)
  share = (place - low).astype(np.float32)
  matrix = np.zeros((target, source), np.float32)
  matrix[np.arange(target), low] = 1 - share
  matrix[np.arange(target), np.minimum(low + 1, source - 1)] += share
  return matrix


def nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Output pixel (i, j) of h x w is input pixel (floor(i * H / h), floor(j * W / w)) of [batch, H, W, channels]."""
  chex.assert_rank(x, 4)
  rows = np.arange(size[0]) * x.shape[1] // size[0]
  columns = np.arange(size[1]) * x.shape[2] // size[1]
  return x[:, rows][:, :, columns]


def adaptive_mean(x: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Means over bins: bin i of n covers rows floor(i * H / n) up to, not including, ceil((i + 1) * H / n).

  Args:
    x: [batch, height, width, channels].
    size: number of bins (vertical, horizontal).

  Returns:
    [batch, *size, channels].
  """
  chex.assert_rank(x, 4)
  rows, columns = _bins(x.shape[1], size[0]), _bins(x.shape[2], size[1])
  return jnp.einsum('ih,bhwc,jw->bijc', rows, x, columns, precision=jax.lax.Precision.HIGHEST)


def _bins(length: int, count: int) -> np.ndarray:
  """[count, length] float32 averaging matrix."""
  matrix = np.zeros((count, length), np.float32)
  for i in range(count):
    start, stop = i * length // count, -(-(i + 1) * length // count)
    matrix[i, start:stop] = 1 / (stop - start)
  return matrix
