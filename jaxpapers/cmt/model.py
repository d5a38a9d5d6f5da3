"""CMT and the four published models (Yan et al., ICCV 2023, arXiv 2301.01283)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpapers.cmt.camera import CameraBranch, normalise
from jaxpapers.cmt.cp_fpn import CPFPN
from jaxpapers.cmt.denoising import Denoising
from jaxpapers.cmt.head import PC_RANGE, Head, HeadOutput
from jaxpapers.cmt.lidar import lidar_branch
from jaxpapers.cmt.vovnet import VoVNet99
from jaxpapers.layers.resnet import ResNet50

__all__ = ['CMT', 'Output', 'cmt_camera', 'cmt_lidar', 'cmt_r50', 'cmt_vov', 'normalise']

FINE_VOXEL = (0.075, 0.075, 0.2)
COARSE_VOXEL = (0.1, 0.1, 0.2)
RELEASED_COARSE_CELLS = (1024, 1024)


class Output(NamedTuple):
  """What a CMT gives.

  Attributes:
    head: predictions.
    lost: counts of what static sizes have cost, int32 [batch] each; see `LidarBranch`. Report them.
  """

  head: HeadOutput
  lost: dict[str, jax.Array]


class CMT(nn.Module):
  """Images and points to boxes: the features of each sensor are tokens of one memory that object queries attend to.

  Source: the paper's overall architecture.

  Attributes:
    camera: normalised images [batch, cameras, height, width, 3] -> [batch, cameras, height', width', channels]; None
      in a model without cameras.
    lidar: (points, mask, train) -> (bird's-eye-view map [batch, y, x, channels], counts); None in one without LiDAR.
    head: see `Head`.
  """

  camera: nn.Module | None
  lidar: nn.Module | None
  head: Head

  def __call__(
    self,
    points: jax.Array | None = None,
    points_mask: jax.Array | None = None,
    images: jax.Array | None = None,
    lidar2img: jax.Array | None = None,
    img2lidar: jax.Array | None = None,
    *,
    has_lidar: jax.Array | None = None,
    has_camera: jax.Array | None = None,
    denoising: Denoising | None = None,
    train: bool = False,
  ) -> Output:
    """Detects. A sensor that is None is absent: no tokens of it exist.

    Args:
      points: [batch, n, >= 5] float32: x, y, z in metres, intensity, seconds before the keyframe.
      points_mask: [batch, n] bool, false for padding; None is all true.
      images: [batch, cameras, height, width, 3], from `normalise`.
      lidar2img: [batch, cameras, 4, 4] to (u d, v d, d, 1) in pixels of the padded image.
      img2lidar: its inverse, taken in float64 where that is possible.
      has_lidar: [batch] bool, false hides the LiDAR tokens of an example.
      has_camera: [batch, cameras] bool, false hides a camera.
      denoising: queries of training.
      train: statistics of the batch, dropout (rng stream `dropout`).

    Raises:
      ValueError: if both sensors are absent, the model lacks one that is given, or shapes do not fit.
    """
    for name, given, branch in (('points', points, self.lidar), ('images', images, self.camera)):
      if given is not None and branch is None:
        raise ValueError(f'{name} were given to a model without a branch for them.')
    if points is None and images is None:
      raise ValueError('Both sensors are absent: give points, images, or both.')
    bev, lost, features, size = None, {}, None, None
    if points is not None:
      mask = jnp.ones(points.shape[:2], bool) if points_mask is None else points_mask
      bev, lost = self.lidar(points, mask, train)
    if images is not None:
      features, size = self.camera(images), images.shape[2:4]
    found = self.head(
      bev,
      features,
      lidar2img,
      img2lidar,
      size,
      has_lidar=None if points is None else has_lidar,
      has_camera=None if images is None else has_camera,
      denoising=denoising,
      train=train,
    )
    return Output(found, lost)


def cmt_r50(
  cells: tuple[int, int] | None = RELEASED_COARSE_CELLS,
  pc_range: Sequence[float] = PC_RANGE,
  *,
  dtype: Any = jnp.float32,
  remat: bool = False,
  **head: Any,
) -> CMT:
  """ResNet-50 at 800 x 320 pixels and voxels of 0.1 m. Source: the authors' config of that size.

  Args:
    cells: of the sparse grid. The released weights were trained with 1024 x 1024, which ends at +48.4 m and misplaces
      the map's tokens by 5 %: right for those weights only. None takes the 1080 x 1080 that the range holds, for own
      training.
    pc_range: in metres.
    dtype: of image network, dense bird's-eye-view network and decoder; voxels, sparse encoder, geometry and outputs are
      float32.
    remat: recompute the image network's activations in the backward pass: less memory.
    head: further settings of `Head`.
  """
  camera = CameraBranch(ResNet50(remat=remat), CPFPN(), dtype=dtype)
  return CMT(camera, lidar_branch(pc_range, COARSE_VOXEL, cells, dtype=dtype), _head(pc_range, dtype, head))


def cmt_vov(pc_range: Sequence[float] = PC_RANGE, *, dtype: Any = jnp.float32, remat: bool = False, **head: Any) -> CMT:
  """VoVNet-99 at 1600 x 640 pixels and voxels of 0.075 m; arguments as of `cmt_r50`. Source: the authors' config."""
  camera = CameraBranch(VoVNet99(remat=remat), CPFPN(), dtype=dtype)
  return CMT(camera, lidar_branch(pc_range, FINE_VOXEL, dtype=dtype), _head(pc_range, dtype, head))


def cmt_lidar(pc_range: Sequence[float] = PC_RANGE, *, dtype: Any = jnp.float32, **head: Any) -> CMT:
  """CMT-L: voxels of 0.075 m alone; its output heads look at three neighbouring queries. Arguments as of `cmt_r50`.

  Source: the authors' config.
  """
  branch = lidar_branch(pc_range, FINE_VOXEL, dtype=dtype)
  return CMT(None, branch, _head(pc_range, dtype, {'head_kernel': 3, **head}))


def cmt_camera(
  pc_range: Sequence[float] = PC_RANGE, *, dtype: Any = jnp.float32, remat: bool = False, **head: Any
) -> CMT:
  """CMT-C: VoVNet-99 at 1600 x 640 pixels alone; arguments as of `cmt_r50`. Source: the authors' config."""
  return CMT(CameraBranch(VoVNet99(remat=remat), CPFPN(), dtype=dtype), None, _head(pc_range, dtype, head))


def _head(pc_range: Sequence[float], dtype: Any, settings: dict[str, Any]) -> Head:
  return Head(pc_range=tuple(pc_range), dtype=dtype, **settings)
