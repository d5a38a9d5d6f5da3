"""LiDAR clouds and pictures from files, and the cloud of a keyframe with those of the half second before it."""

import numpy as np
from etils import epath

from jaxpapers.cmt import geometry
from jaxpapers.cmt.nuscenes import Camera, Frame
from jaxpapers.data import image as image_ops
from jaxpapers.engine.errors import UserError

COLUMNS = 5
"""Of a point file: x, y, z, intensity, ring."""


def read_points(path: epath.Path) -> np.ndarray:
  """float32 [n, 5] of a `.pcd.bin` file: x, y, z (sensor frame, metres), intensity 0..255, ring.

  Raises:
    UserError: naming a file that is missing, or that does not hold whole points.
  """
  data = _read(path)
  if len(data) % (4 * COLUMNS):
    raise UserError(
      f'{path} is truncated or no point file: {len(data):,} bytes are not whole points of {4 * COLUMNS} bytes.'
    )
  return np.frombuffer(data, '<f4').reshape(-1, COLUMNS).astype(np.float32)


def aggregate(frame: Frame, ego_radius: float = 0.0) -> np.ndarray:
  """float32 [n, 5]: x, y, z (keyframe LiDAR), intensity, seconds before the keyframe; the keyframe's points first.

  Args:
    frame: with its sweeps, of which all are used.
    ego_radius: points of every cloud with |x| and |y| below it, in its own sensor's frame, are left out.

  Raises:
    UserError: see `read_points`.
  """
  clouds = [_cloud(frame.lidar, None, 0.0, ego_radius)]
  clouds += [_cloud(sweep.path, sweep.to_key, sweep.dt, ego_radius) for sweep in frame.sweeps]
  return np.concatenate(clouds)


def read_picture(camera: Camera) -> np.ndarray:
  """uint8 [height, width, 3], BGR.

  Raises:
    UserError: naming a file that is missing, damaged, or of another size than the tables say.
  """
  picture = image_ops.decode(picture_bytes(camera), str(camera.path))[..., ::-1]
  if camera.size != (0, 0) and picture.shape[:2] != camera.size:
    found, wanted = (f'{width}x{height}' for height, width in (picture.shape[:2], camera.size))
    raise UserError(f'{camera.path} is {found}, not {wanted} as sample_data.json says.')
  return picture


def picture_bytes(camera: Camera) -> bytes:
  """The encoded picture.

  Raises:
    UserError: naming a file that is missing.
  """
  return _read(camera.path)


def _cloud(path: epath.Path, to_key: np.ndarray | None, dt: float, ego_radius: float) -> np.ndarray:
  points = read_points(path)
  if ego_radius > 0:
    points = points[(np.abs(points[:, :2]) >= ego_radius).any(1)]
  if to_key is not None:
    points[:, :3] = geometry.transform(to_key, points[:, :3].astype(np.float64))
  points[:, 4] = dt
  return points


def _read(path: epath.Path) -> bytes:
  try:
    return path.read_bytes()
  except FileNotFoundError:
    raise UserError(f'{path} is missing; the tables list it.') from None
