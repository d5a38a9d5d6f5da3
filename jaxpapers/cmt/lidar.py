"""LiDAR branch of the paper: voxels, sparse encoder, dense bird's-eye-view network."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpapers.cmt.second import SECOND, SECONDFPN
from jaxpapers.cmt.sparse_encoder import SparseEncoder
from jaxpapers.cmt.voxelize import check_points, grid_size, voxelize

POINT_CHANNELS = 5
REDUCTION = 8  # of the sparse encoder, along x and y


def sparse_shape(
  pc_range: Sequence[float], voxel_size: Sequence[float], cells: tuple[int, int] | None = None
) -> tuple[int, int, int]:
  """Grid (z, y, x) of the sparse encoder.

  Args:
    pc_range: lower x, y, z, upper x, y, z in metres.
    voxel_size: along x, y, z in metres.
    cells: along x and y; None follows from the range. The released ResNet-50 weights were trained with 1024 cells where
      the range holds 1080; voxels beyond them are lost, and counted.

  Raises:
    ValueError: naming the axis that voxels, or eighths of `cells`, do not fill evenly.
  """
  size_x, size_y, size_z = grid_size(pc_range, voxel_size, 1 if cells else REDUCTION)
  if cells is None:
    cells = size_x, size_y
  if any(n % REDUCTION for n in cells):
    raise ValueError(f'A grid of {cells} cells is not divisible by {REDUCTION}.')
  return size_z + 1, cells[1], cells[0]  # one plane more than the voxels have


class LidarBranch(nn.Module):
  """Points to a bird's-eye-view map. Source: the paper's LiDAR branch: VoxelNet and SECOND as in the authors' code.

  Attributes:
    pc_range: lower x, y, z, upper x, y, z in metres.
    voxel_size: along x, y, z in metres.
    encoder: (voxel features, coordinates, train) -> (map, counts); its grid is `sparse_shape(...)`.
    backbone: (map, train) -> maps.
    neck: (maps, train) -> map.
    max_voxels: per cloud in training and in evaluation.
    max_points: per voxel.
    dtype: of backbone and neck; voxels and encoder are float32.
  """

  pc_range: Sequence[float]
  voxel_size: Sequence[float]
  encoder: nn.Module
  backbone: nn.Module
  neck: nn.Module
  max_voxels: tuple[int, int] = (120_000, 160_000)
  max_points: int = 10
  dtype: Any = jnp.float32

  def __call__(self, points: jax.Array, mask: jax.Array, train: bool = False) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The map, and what static sizes have cost.

    Args:
      points: [batch, n, >= 5] float32: x, y, z in metres, intensity 0 to 255, seconds before the keyframe.
      mask: [batch, n] bool, false for padding.
      train: batch norm uses the batch's statistics; the smaller maximum of voxels.

    Returns:
      ([batch, y, x, channels] float32; int32 [batch] each: `lost_voxels` (no room), `outside_voxels` (beyond the
      encoder's grid), `lost_sites1` to `lost_sites4` (no room after a strided convolution)).

    Raises:
      ValueError: for other shapes, or a range that voxels do not fill evenly.
    """
    check_points(points, mask)

    def one(points, mask):
      rows = self.max_voxels[0 if train else 1]
      return voxelize(points, mask, self.pc_range, self.voxel_size, rows, self.max_points)

    voxels = jax.vmap(one)(points[..., :POINT_CHANNELS], mask)
    _, rows, columns = self.encoder.shape
    outside = ((voxels.coords[..., 1] >= rows) | (voxels.coords[..., 2] >= columns)).sum(1)
    x, lost = self.encoder(voxels.features, voxels.coords, train)
    x = self.neck(self.backbone(x.astype(self.dtype), train), train)
    return x.astype(jnp.float32), {'lost_voxels': voxels.lost, 'outside_voxels': outside, **lost}


def lidar_branch(
  pc_range: Sequence[float],
  voxel_size: Sequence[float],
  cells: tuple[int, int] | None = None,
  capacities: Sequence[int] = (360_000, 240_000, 72_000, 40_000),
  **options: Any,
) -> LidarBranch:
  """The published branch for a range and a voxel size; see `sparse_shape`, `SparseEncoder` and `LidarBranch`."""
  encoder = SparseEncoder(sparse_shape(pc_range, voxel_size, cells), capacities=capacities)
  return LidarBranch(tuple(pc_range), tuple(voxel_size), encoder, SECOND(), SECONDFPN(), **options)
