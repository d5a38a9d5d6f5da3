"""Pillars instead of voxels (PointPillars, arXiv 1812.05784): no data-dependent shape, nothing can overflow."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpapers.cmt.voxelize import cells, check_points, grid_size
from jaxpapers.layers.conv import Conv


def pillar_index(
  points: jax.Array, mask: jax.Array, pc_range: Sequence[float], pillar_size: Sequence[float]
) -> jax.Array:
  """Row y * X + x of every point's pillar, X * Y for padding and points outside: [..., n] int32."""
  size_x, size_y = grid_size(pc_range, pillar_size)
  place, inside = cells(points, mask, pc_range, pillar_size)
  return jnp.where(inside, place[..., 1] * size_x + place[..., 0], size_x * size_y)


def pillar_inputs(
  points: jax.Array, index: jax.Array, pc_range: Sequence[float], pillar_size: Sequence[float]
) -> jax.Array:
  """What is known of every point, in numbers of order one.

  Args:
    points: [n, 5] float32, x, y, z, intensity 0 to 255, seconds.
    index: [n] int32 of `pillar_index`.
    pc_range: lower x, y, z, upper x, y, z in metres.
    pillar_size: along x and y in metres.

  Returns:
    [n, 10]: place in the range, -1 to 1 (3); intensity / 255; seconds; offset from the mean of the pillar's points in
    metres (3); offset from the pillar's centre in pillars (2). Rows outside the range are 0.
  """
  size_x, size_y = grid_size(pc_range, pillar_size)
  low, high = jnp.asarray(pc_range[:3], jnp.float32), jnp.asarray(pc_range[3:], jnp.float32)
  inside = index < size_x * size_y
  points = jnp.where(inside[:, None], points[:, :5], 0.0)
  xyz = points[:, :3]
  sums = jax.ops.segment_sum(jnp.pad(xyz, ((0, 0), (0, 1)), constant_values=1.0), index, size_x * size_y + 1)
  mean = (sums[:, :3] / jnp.maximum(sums[:, 3:], 1.0))[index]
  pillar = jnp.asarray(pillar_size, jnp.float32)
  centre = jnp.stack([index % size_x, index // size_x], -1) + 0.5
  offset = (xyz[:, :2] - low[:2]) / pillar - centre
  place = 2.0 * (xyz - low) / (high - low) - 1.0
  known = jnp.concatenate([place, points[:, 3:4] / 255.0, points[:, 4:5], xyz - mean, offset], -1)
  return jnp.where(inside[:, None], known, 0.0)


class PillarBranch(nn.Module):
  """Points to a bird's-eye-view map: maxima of point features over pillars, then 3x3 convolutions.

  Source: PointPillars (Lang et al., CVPR 2019).

  Attributes:
    pc_range: lower x, y, z, upper x, y, z in metres.
    pillar_size: along x and y in metres.
    point_width: features of a point.
    widths: channels of the convolutions.
    strides: of the convolutions.
    patches: see `layers.conv.conv`.
  """

  pc_range: Sequence[float]
  pillar_size: Sequence[float]
  point_width: int = 32
  widths: Sequence[int] = (64, 64)
  strides: Sequence[int] = (1, 2)
  patches: bool = False

  @nn.compact
  def __call__(self, points: jax.Array, mask: jax.Array, train: bool = False) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Points [batch, n, >= 5] and mask [batch, n] -> ([batch, y, x, channels], no counts: nothing is ever lost).

    Raises:
      ValueError: for other shapes, or a range that pillars do not fill evenly.
    """
    del train
    check_points(points, mask)
    size_x, size_y = grid_size(self.pc_range, self.pillar_size)
    index = pillar_index(points, mask, self.pc_range, self.pillar_size)
    known = jax.vmap(lambda p, i: pillar_inputs(p, i, self.pc_range, self.pillar_size))(points, index)
    features = nn.relu(nn.Dense(self.point_width, name='points')(known))
    canvas = jax.vmap(lambda f, i: jax.ops.segment_max(f, i, size_x * size_y + 1)[:-1])(features, index)
    x = jnp.maximum(canvas, 0.0).reshape(-1, size_y, size_x, self.point_width)  # an empty pillar's maximum is -inf
    for i, (width, stride) in enumerate(zip(self.widths, self.strides, strict=True)):
      x = nn.relu(Conv(width, 3, stride, patches=self.patches, name=f'conv{i}')(x))
    return x, {}
