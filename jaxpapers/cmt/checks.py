"""What a person can get wrong about a scene, each in one sentence that names the field and the shape."""

import numpy as np

from jaxpapers.engine.errors import UserError


def check_points(points: np.ndarray, name: str = 'points') -> None:
  """Refuses clouds that are not [n, 5 or more] or hold no numbers."""
  if points.ndim != 2 or points.shape[1] < 5:
    raise UserError(f'{name} must be [n, 5 or more] (x, y, z, intensity, seconds), not {list(points.shape)}.')
  for row in np.flatnonzero(~np.isfinite(points).all(1))[:1]:
    raise UserError(f'{name}: point {row} is {points[row].tolist()}.')


def check_boxes(boxes: np.ndarray, labels: np.ndarray, classes: int, name: str = 'boxes') -> None:
  """Refuses boxes that are not [n, 9], sizes that are not positive, and labels that are no class."""
  if boxes.ndim != 2 or boxes.shape[1] != 9 or labels.shape != boxes.shape[:1]:
    raise UserError(
      f'{name} must be [n, 9] (x, y, z, l, w, h, yaw, vx, vy) with labels [n], not {list(boxes.shape)} with '
      f'{list(labels.shape)}.'
    )
  for row in np.flatnonzero(~(boxes[:, 3:6] > 0).all(1))[:1]:
    raise UserError(f'{name}: the size of box {row} is {boxes[row, 3:6].tolist()}; it must be positive.')
  for row in np.flatnonzero(~np.isfinite(boxes[:, :7]).all(1))[:1]:
    raise UserError(f'{name}: box {row} is {boxes[row].tolist()}.')
  for row in np.flatnonzero((labels < 0) | (labels >= classes))[:1]:
    raise UserError(f'{name}: the label of box {row} is {labels[row]}; classes are 0..{classes - 1}.')


def image_to_lidar(lidar2img: np.ndarray, cameras: int, name: str = 'lidar2img') -> np.ndarray:
  """float32 [cameras, 4, 4]: the inverse, made in float64.

  Args:
    lidar2img: [cameras, 4, 4].
    cameras: how many there are pictures of.
    name: for messages.

  Raises:
    UserError: for another shape, or a matrix that is no number or has no inverse.
  """
  if lidar2img.shape != (cameras, 4, 4):
    raise UserError(f'{name} must be [{cameras}, 4, 4], one matrix a camera, not {list(lidar2img.shape)}.')
  matrices = lidar2img.astype(np.float64)
  for camera in np.flatnonzero(~np.isfinite(matrices).all((1, 2)))[:1]:
    raise UserError(f'{name}: the matrix of camera {camera} is not finite.')
  for camera in np.flatnonzero([np.linalg.matrix_rank(matrix) < 4 for matrix in matrices])[:1]:
    raise UserError(f'{name}: the matrix of camera {camera} has no inverse.')
  return np.linalg.inv(matrices).astype(np.float32)
