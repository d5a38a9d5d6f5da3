"""Coordinates encoding: what a token's position embedding is computed from (CMT, Yan et al., ICCV 2023).

All is float32 with exact matrix products: a pixel times a depth reaches 1e5, and bfloat16 would lose metres.
"""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

_EXACT = jax.lax.Precision.HIGHEST


def linear_periods(width: int) -> np.ndarray:
  """Periods of the published code: from 1 to just under 2 in equal steps. [width / 2] float32."""
  return (1.0 + 2.0 * np.arange(width // 2) / width).astype(np.float32)


def geometric_periods(width: int, low: float = -1.0, high: float = 3.0) -> np.ndarray:
  """Periods of frequencies from 2**low to 2**high in equal ratios, so that near cells differ. [width / 2] float32."""
  return (2.0 ** -np.linspace(low, high, width // 2)).astype(np.float32)


def sine_code(points: jax.Array, periods: np.ndarray) -> jax.Array:
  """Sine and cosine of both coordinates at every period.

  Source: the paper's coordinates encoding, with the periods of the authors' code.

  Args:
    points: [..., 2 or more] in [0, 1]; only (x, y) count.
    periods: [n / 2].

  Returns:
    [..., 2 n]: the code of y, then the code of x, each with sine and cosine in turn.
  """
  angles = points[..., 1::-1, None] * (2.0 * np.pi) / periods
  code = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)
  return code.reshape(*points.shape[:-1], 4 * len(periods))


def cell_centers(height: int, width: int) -> np.ndarray:
  """Centres (x, y) of a bird's-eye-view grid in units of its sides, row by row. [height * width, 2] float32."""
  y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing='ij')
  return np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)


def depth_bins(count: int, farthest: float) -> np.ndarray:
  """Depths in metres along a pixel's ray: `count` of them from 1, in equal steps, below `farthest`. [count] float32."""
  return (1.0 + np.arange(count) * (farthest - 1.0) / count).astype(np.float32)


def cell_pixels(height: int, width: int, image_size: tuple[int, int]) -> np.ndarray:
  """Homogeneous pixel (u, v, 1) of the upper left corner of every feature cell. [height, width, 3] float32."""
  v, u = np.meshgrid(
    np.arange(height) * (image_size[0] / height), np.arange(width) * (image_size[1] / width), indexing='ij'
  )
  return np.stack([u, v, np.ones_like(u)], axis=-1).astype(np.float32)


def normalise_points(points: jax.Array, pc_range: Sequence[float]) -> jax.Array:
  """Metres -> units of the range, not clipped. [..., 3] both."""
  low, high = np.asarray(pc_range[:3], np.float32), np.asarray(pc_range[3:], np.float32)
  return (points - low) / (high - low)


def denormalise_points(points: jax.Array, pc_range: Sequence[float]) -> jax.Array:
  """Units of the range -> metres. [..., 3] both."""
  low, high = np.asarray(pc_range[:3], np.float32), np.asarray(pc_range[3:], np.float32)
  return points * (high - low) + low


def ray_points(pixels: jax.Array, img2lidar: jax.Array, depths: np.ndarray, pc_range: Sequence[float]) -> jax.Array:
  """Points on the rays of pixels, in units of the range: the input of the ray embedding.

  Source: the paper's coordinates encoding of image tokens.

  Args:
    pixels: [batch, cameras, points, 3] homogeneous (u, v, 1), or [points, 3] for all cameras alike.
    img2lidar: [batch, cameras, 4, 4], inverse of the projection; its last row is (0, 0, 0, 1).
    depths: [depths] in metres.
    pc_range: x, y, z lower then upper bounds in metres.

  Returns:
    [batch, cameras, points, depths * 3] float32, the coordinates of one depth together.
  """
  chex.assert_shape(img2lidar, (None, None, 4, 4))
  chex.assert_axis_dimension(pixels, -1, 3)
  matrices = img2lidar.astype(jnp.float32)
  subscripts = 'bvij,pj->bvpi' if pixels.ndim == 2 else 'bvij,bvpj->bvpi'
  directions = jnp.einsum(subscripts, matrices[..., :3, :3], pixels, precision=_EXACT)
  points = directions[..., None, :] * depths[:, None] + matrices[:, :, None, None, :3, 3]
  return normalise_points(points, pc_range).reshape(*directions.shape[:3], -1)


def project(points: jax.Array, lidar2img: jax.Array) -> jax.Array:
  """LiDAR coordinates in metres -> (u d, v d, d) in every camera.

  Args:
    points: [batch, points, 3].
    lidar2img: [batch, cameras, 4, 4].

  Returns:
    [batch, cameras, points, 3] float32.
  """
  chex.assert_shape(points, (None, None, 3))
  chex.assert_shape(lidar2img, (points.shape[0], None, 4, 4))
  matrices = lidar2img.astype(jnp.float32)
  turned = jnp.einsum('bvij,bpj->bvpi', matrices[..., :3, :3], points, precision=_EXACT)
  return turned + matrices[:, :, None, :3, 3]
