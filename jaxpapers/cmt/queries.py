"""Position-guided queries: a learned 3D point, seen as the tokens are (the paper's query generator)."""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.cmt import encoding

_MARGIN = 1e-5


def inverse_sigmoid(x: jax.Array) -> jax.Array:
  """log(x / (1 - x)) of x in [0, 1], kept finite by a margin of 1e-5 on both sides; any shape.

  `where` instead of `clip`: at exactly 0 and 1 the derivative is the one-sided one of the published program.
  """
  x = jnp.where(x < 0, 0.0, jnp.where(x > 1, 1.0, x))
  rest = 1.0 - x
  return jnp.log(jnp.where(x < _MARGIN, _MARGIN, x)) - jnp.log(jnp.where(rest < _MARGIN, _MARGIN, rest))


def query_rays(
  references: jax.Array,
  lidar2img: jax.Array,
  img2lidar: jax.Array,
  image_size: tuple[int, int],
  depths: np.ndarray,
  pc_range: Sequence[float],
) -> tuple[jax.Array, jax.Array]:
  """The ray through every query's reference point from every camera that sees it.

  Args:
    references: [batch, queries, 3] in units of the range.
    lidar2img: [batch, cameras, 4, 4] to (u d, v d, d, 1) in pixels of the padded image.
    img2lidar: [batch, cameras, 4, 4], its inverse.
    image_size: (height, width) of the padded image.
    depths: [depths] in metres.
    pc_range: x, y, z lower then upper bounds in metres.

  Returns:
    rays [batch, cameras, queries, depths * 3] float32, and visible [batch, cameras, queries] bool; the rays of
    invisible points are finite and mean nothing.
  """
  chex.assert_equal_shape([lidar2img, img2lidar])
  pixels = encoding.project(encoding.denormalise_points(references, pc_range), lidar2img)
  depth = pixels[..., 2:]
  ahead = depth > 0
  # The gradient flows through the numerator alone, as in the published program.
  pixels = pixels / (jax.lax.stop_gradient(depth) + jnp.where(ahead, 1e-6, -1e-6))
  size = np.asarray([image_size[1], image_size[0]], np.float32)
  inside = jnp.all((pixels[..., :2] >= 0) & (pixels[..., :2] < size), axis=-1)
  visible = ahead[..., 0] & inside
  pixels = jnp.where(visible[..., None], pixels, 0.0)
  return encoding.ray_points(pixels, img2lidar, depths, pc_range), visible
