"""Sensors that fail: the paper's masked-modal training and the protocol that measures robustness.

Functions take NumPy or JAX arrays and give the same kind. A batch is a mapping as the readers make it: points,
points_mask, images, has_lidar [batch], has_camera [batch, cameras], ...
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxpapers.engine.errors import UserError

Array = Any
Batch = Mapping[str, Array]

MODES = ('drop', 'zero')
"""How a sensor is absent: its tokens are masked, or its input is zeroed as in the published code."""


def masked_modal(draw: Array, points: Array, images: Array) -> tuple[Array, Array]:
  """Zeroes, for training, the pictures of a quarter of the scenes and the points of another quarter.

  It comes before pictures are normalised and points moved: the network sees the darkest pictures instead of the mean
  colour, and a cloud of one point.

  Source: the paper's masked-modal training, with the shares of the authors' code.

  Args:
    draw: [...], uniform in [0, 1): above 3/4 no pictures, from there to above 1/2 no points, else both.
    points: [..., points, 5].
    images: [..., cameras, height, width, 3], 0..255.
  """
  lidar = (draw <= 0.5) | (draw > 0.75)
  camera = draw <= 0.75
  return points * lidar[..., None, None].astype(points.dtype), images * camera[..., None, None, None, None].astype(
    images.dtype
  )


def keep_sensors(
  batch: Batch, *, lidar: bool = True, cameras: Sequence[int] | None = None, mode: str = 'drop'
) -> Batch:
  """The batch as if only some sensors worked. Source: the paper's robustness experiments.

  Args:
    batch: see the module.
    lidar: whether it works.
    cameras: indices of those that work; None for all.
    mode: see `MODES`.

  Raises:
    UserError: if nothing works, for an unknown mode or camera.
  """
  count = batch['has_camera'].shape[1]
  working = range(count) if cameras is None else cameras
  if mode not in MODES:
    raise UserError(f'A sensor is absent by {" or ".join(MODES)}, not {mode!r}.')
  if not lidar and not working:
    raise UserError('Neither LiDAR nor any camera is left: there is nothing to detect objects from.')
  for camera in working:
    if not 0 <= camera < count:
      raise UserError(f'There is no camera {camera}: the batch has {count}.')
  xp = batch['has_camera'].__array_namespace__()
  works = xp.asarray([camera in working for camera in range(count)])
  result = dict(batch)
  if mode == 'drop':
    result['has_camera'] = batch['has_camera'] & works
    if not lidar:
      result['has_lidar'] = xp.zeros_like(batch['has_lidar'])
    return result
  if 'images' in batch and not all(camera in working for camera in range(count)):
    result['images'] = batch['images'] * works[:, None, None, None].astype(batch['images'].dtype)
  if 'points' in batch and not lidar:
    result['points'] = xp.zeros_like(batch['points'])
  return result


def protocol(mode: str = 'drop', cameras: int = 6) -> dict[str, Callable[[Batch], Batch]]:
  """The rows of the robustness table: name -> function of a batch. Source: the paper's robustness experiments.

  Both sensors, LiDAR only, cameras only, the front camera lost, and the front camera alone beside LiDAR.
  """
  others = tuple(range(1, cameras))
  rows = {
    'both': {},
    'lidar_only': {'cameras': ()},
    'camera_only': {'lidar': False},
    'front_camera_lost': {'cameras': others},
    'front_camera_left': {'cameras': (0,)},
  }
  return {name: lambda batch, kept=kept: keep_sensors(batch, mode=mode, **kept) for name, kept in rows.items()}
