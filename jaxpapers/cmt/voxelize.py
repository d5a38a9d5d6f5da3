"""Hard voxelisation with static shapes (VoxelNet's rules as mmdet3d runs them on the CPU)."""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp


class Voxels(NamedTuple):
  """Voxels of one cloud, in the order in which the points first touch them.

  Attributes:
    coords: [max_voxels, 3] int32 (z, y, x); -1 in unused rows.
    features: [max_voxels, channels] float32, mean of the kept points; 0 in unused rows.
    counts: [max_voxels] int32, kept points.
    lost: int32, voxels that hold points and found no room.
  """

  coords: jax.Array
  features: jax.Array
  counts: jax.Array
  lost: jax.Array


def grid_size(pc_range: Sequence[float], voxel_size: Sequence[float], multiple: int = 1) -> tuple[int, ...]:
  """Voxels along x, y (and z, where `voxel_size` has it).

  Args:
    pc_range: lower x, y, z, upper x, y, z in metres.
    voxel_size: along x, y (, z) in metres.
    multiple: what the counts along x and y must be divisible by.

  Raises:
    ValueError: naming the axis, for a range that is empty or that voxels do not fill evenly.
  """
  if len(pc_range) != 6:
    raise ValueError(f'pc_range must be six numbers, x y z lower then upper, not {tuple(pc_range)}.')
  sizes = []
  for axis, (low, high, voxel) in enumerate(zip(pc_range[:3], pc_range[3:], voxel_size, strict=False)):
    unit = multiple if axis < 2 else 1
    count = (high - low) / voxel
    if round(count) < 1 or abs(count - round(count)) > 1e-4 * count or round(count) % unit:
      raise ValueError(
        f'pc_range spans {high - low:g} m in {"xyz"[axis]}: {count:g} cells of {voxel:g} m, not a multiple of {unit}.'
      )
    sizes.append(round(count))
  return tuple(sizes)


def check_points(points: jax.Array, mask: jax.Array) -> None:
  """Raises ValueError unless points are [batch, n, >= 5] with a mask [batch, n]."""
  if points.ndim != 3 or points.shape[-1] < 5:
    raise ValueError(f'points must be [batch, n, >= 5] (x, y, z, intensity, seconds), not {points.shape}.')
  if mask.shape != points.shape[:2]:
    raise ValueError(f'points_mask must be {points.shape[:2]} as the points are, not {mask.shape}.')


def cells(
  points: jax.Array, mask: jax.Array, pc_range: Sequence[float], voxel_size: Sequence[float]
) -> tuple[jax.Array, jax.Array]:
  """The grid cell of every point; a point on the lower border is inside, one on the upper border is not.

  Args:
    points: [..., n, >= 3] float32, x, y, z first.
    mask: [..., n] bool, false for padding.
    pc_range: see `grid_size`.
    voxel_size: along x, y (, z); cells have as many axes.

  Returns:
    ([..., n, axes] int32 in the order x, y (, z), [..., n] bool: real and inside).
  """
  axes = len(voxel_size)
  # XLA replaces division by a broadcast divisor with a product, which rounds differently; this one it cannot know.
  voxel = jnp.asarray(voxel_size, jnp.float32)
  voxel = jnp.minimum(voxel, voxel + jnp.isfinite(points[..., :axes]))
  low = jnp.asarray(pc_range[:axes], jnp.float32)
  place = jnp.floor((points[..., :axes] - low) / voxel)
  size = jnp.asarray(grid_size(pc_range, voxel_size), jnp.float32)
  inside = mask & jnp.all((place >= 0) & (place < size), -1)
  if axes == 2:
    z = points[..., 2]
    inside &= (z >= pc_range[2]) & (z < pc_range[5])
  return jnp.where(inside[..., None], place, 0).astype(jnp.int32), inside


def voxelize(
  points: jax.Array,
  mask: jax.Array,
  pc_range: Sequence[float],
  voxel_size: Sequence[float],
  max_voxels: int,
  max_points: int = 10,
) -> Voxels:
  """Means of the first `max_points` points of each of the first `max_voxels` voxels; vmap it for a batch.

  Args:
    points: [n, channels] float32, x, y, z first.
    mask: [n] bool, false for padding.
    pc_range: see `grid_size`.
    voxel_size: along x, y, z in metres.
    max_voxels: rows of the result; a voxel first touched when all are taken is lost, with its points.
    max_points: points per voxel; later ones are ignored.
  """
  chex.assert_rank([points, mask], [2, 1])
  size_x, size_y, size_z = (int(n) for n in grid_size(pc_range, voxel_size))
  nowhere = size_x * size_y * size_z
  place, inside = cells(points, mask, pc_range, voxel_size)
  ids = jnp.where(inside, (place[:, 2] * size_y + place[:, 1]) * size_x + place[:, 0], nowhere)
  order = jnp.argsort(ids, stable=True)  # points of a voxel become neighbours and stay in input order
  ids = ids[order]
  position = jnp.arange(len(ids), dtype=jnp.int32)
  first = jnp.concatenate([jnp.ones(1, bool), ids[1:] != ids[:-1]])
  start = jax.lax.cummax(jnp.where(first, position, 0))
  opens = jnp.zeros(len(ids), bool).at[order].set(first & (ids < nowhere))
  slot = jnp.where(ids < nowhere, (jnp.cumsum(opens) - 1)[order[start]], max_voxels)
  kept = (slot < max_voxels) & (position - start < max_points)
  row = jnp.where(kept, slot, max_voxels)
  sums = jax.ops.segment_sum(jnp.where(kept[:, None], points[order], 0.0), row, max_voxels + 1)[:-1]
  counts = jax.ops.segment_sum(kept.astype(jnp.int32), row, max_voxels + 1)[:-1]
  voxel = jnp.full(max_voxels, -1, jnp.int32).at[jnp.where(first, slot, max_voxels)].set(ids, mode='drop')
  coords = jnp.stack([voxel // (size_x * size_y), voxel // size_x % size_y, voxel % size_x], -1)
  return Voxels(
    coords=jnp.where(voxel[:, None] >= 0, coords, -1),
    features=sums / jnp.maximum(counts, 1)[:, None],
    counts=counts,
    lost=jnp.maximum(opens.sum(dtype=jnp.int32) - max_voxels, 0),
  )
