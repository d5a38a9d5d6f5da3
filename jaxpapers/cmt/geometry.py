"""Rigid transforms of sensors and vehicles as 4x4 matrices, float64 on the host.

A pose "a to b" takes homogeneous coordinates in the frame of a to those of b. Quaternions are (w, x, y, z), as in the
nuScenes tables.
"""

import numpy as np
from scipy.spatial.transform import Rotation


def rotation_matrix(quaternion: np.ndarray) -> np.ndarray:
  """Matrices [..., 3, 3] of quaternions [..., 4], which are normalised first."""
  quaternion = np.asarray(quaternion, np.float64)
  scalar_last = np.roll(quaternion.reshape(-1, 4), -1, axis=1)
  return Rotation.from_quat(scalar_last).as_matrix().reshape(*quaternion.shape[:-1], 3, 3)


def yaw_quaternion(yaw: np.ndarray) -> np.ndarray:
  """Quaternions [..., 4] of turns about z, radians [...]."""
  half, zero = np.asarray(yaw, np.float64) / 2, np.zeros(np.shape(yaw))
  return np.stack([np.cos(half), zero, zero, np.sin(half)], axis=-1)


def yaw_of(rotation: np.ndarray) -> np.ndarray:
  """Heading [...] in the xy plane, of the x axis turned by matrices [..., 3, 3]."""
  return np.arctan2(rotation[..., 1, 0], rotation[..., 0, 0])


def pose(quaternion: np.ndarray, translation: np.ndarray) -> np.ndarray:
  """Transforms [..., 4, 4] of quaternions [..., 4] and translations [..., 3]."""
  matrix = np.zeros((*np.shape(translation)[:-1], 4, 4))
  matrix[..., :3, :3] = rotation_matrix(quaternion)
  matrix[..., :3, 3] = translation
  matrix[..., 3, 3] = 1
  return matrix


def inverse(matrix: np.ndarray) -> np.ndarray:
  """Inverse of rigid transforms [..., 4, 4]."""
  back = np.zeros_like(matrix)
  back[..., :3, :3] = np.swapaxes(matrix[..., :3, :3], -1, -2)
  back[..., :3, 3] = -(back[..., :3, :3] @ matrix[..., :3, 3:])[..., 0]
  back[..., 3, 3] = 1
  return back


def transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
  """Points [n, 3] under a transform [4, 4]."""
  return points @ matrix[:3, :3].T + matrix[:3, 3]


def project(lidar2img: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Pixels [..., 2] and depths [...] of points [..., 3] in one camera [4, 4]; pixels mean nothing at depths <= 0."""
  homogeneous = points @ lidar2img[:3, :3].T + lidar2img[:3, 3]
  depth = homogeneous[..., 2]
  return homogeneous[..., :2] / np.where(depth == 0, 1, depth)[..., None], depth
