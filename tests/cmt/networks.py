"""A CMT of every published part at a size that compiles in seconds."""

import numpy as np

from jaxpapers.cmt.camera import CameraBranch
from jaxpapers.cmt.cp_fpn import CPFPN
from jaxpapers.cmt.head import Head
from jaxpapers.cmt.lidar import LidarBranch, sparse_shape
from jaxpapers.cmt.model import CMT
from jaxpapers.cmt.second import SECOND, SECONDFPN
from jaxpapers.cmt.sparse_encoder import SparseEncoder
from jaxpapers.layers.resnet import Bottleneck, ResNet

PC_RANGE = (-3.2, -3.2, -5.0, 3.2, 3.2, 3.0)
VOXEL = (0.2, 0.2, 0.2)
SIZE = (64, 96)


def small_model(camera: bool = True, lidar: bool = True) -> CMT:
  encoder = SparseEncoder(sparse_shape(PC_RANGE, VOXEL), (4, 4, 6, 6), 6, (600, 400, 100, 60), block=64)
  return CMT(
    CameraBranch(ResNet((1, 1, 1, 1), Bottleneck, 2), CPFPN(16)) if camera else None,
    LidarBranch(PC_RANGE, VOXEL, encoder, SECOND((6, 8), layers=1), SECONDFPN((6, 6)), (120, 80)) if lidar else None,
    Head(12, 16, 2, 2, 16, (3,), 8, depths=4, pc_range=PC_RANGE, block=None),
  )


def small_inputs(seed: int = 0, batch: int = 2, cameras: int = 3) -> dict[str, np.ndarray]:
  """Clouds with padding that is not finite, images, and cameras that look outwards from the origin."""
  rng = np.random.default_rng(seed)
  points = rng.uniform(-3.0, 3.0, (batch, 90, 5)).astype(np.float32)
  mask = np.arange(90)[None] < np.array([90, 61, 33, 7])[:batch, None]
  points[~mask] = np.nan
  turn = 2 * np.pi * np.arange(cameras) / cameras
  matrices = np.zeros((cameras, 4, 4))
  for matrix, a in zip(matrices, turn, strict=True):
    right, down, ahead = (np.sin(a), -np.cos(a), 0), (0, 0, -1), (np.cos(a), np.sin(a), 0)
    matrix[:3, :3] = np.array([[40, 0, 48], [0, 40, 32], [0, 0, 1]]) @ np.array([right, down, ahead])
    matrix[3, 3] = 1
  return {
    'points': points,
    'points_mask': mask,
    'images': rng.normal(size=(batch, cameras, *SIZE, 3)).astype(np.float32),
    'lidar2img': np.broadcast_to(matrices, (batch, cameras, 4, 4)).astype(np.float32),
    'img2lidar': np.broadcast_to(np.linalg.inv(matrices), (batch, cameras, 4, 4)).astype(np.float32),
  }
