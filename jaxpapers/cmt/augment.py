"""Augmentations of a scene that keep its sensors consistent (the authors' recipes), on the host.

Whatever moves points and boxes also changes the matrices, so that every point stays on its pixel. Draws are values of
their own: a transform is a pure function of a draw. One rule serves all variants; the camera-only recipe, whose
published code turns boxes against its cameras, gets the consistent rotation too.
"""

from typing import NamedTuple

import numpy as np

from jaxpapers.engine.errors import UserError

SOURCE = (900, 1600)
"""Height and width of nuScenes pictures."""
PADDING = 32


class BevLimits(NamedTuple):
  """Ranges of the draws: angle +- radians, factor, standard deviation of the shift in metres, chance of each flip."""

  angle: float = 0.785
  scale: tuple[float, float] = (0.9, 1.1)
  shift: float = 0.5
  flip: float = 0.5


FUSION_BEV = BevLimits()
CAMERA_BEV = BevLimits(0.3925, (0.95, 1.05), 0.0, 0.0)
"""Of the variant without LiDAR."""


class BevDraw(NamedTuple):
  """Turn about z, then scale, then shift [3], then y -> -y, then x -> -x."""

  angle: float
  scale: float
  shift: np.ndarray
  flip_y: bool
  flip_x: bool


class ImageLimits(NamedTuple):
  """Ranges of the draws: (height, width) of the result, factor of the resize, chance of the flip."""

  size: tuple[int, int]
  resize: tuple[float, float] = (0.94, 1.25)
  flip: float = 0.5


class ImageDraw(NamedTuple):
  """Resize by a factor, take the part that starts at (left, top) of the resized picture, then mirror left to right."""

  resize: float
  left: int
  top: int
  flip: bool


def draw_bev(rng: np.random.Generator, limits: BevLimits = FUSION_BEV) -> BevDraw:
  """A draw within limits."""
  angle, scale = rng.uniform(-limits.angle, limits.angle), rng.uniform(*limits.scale)
  shift = rng.normal(0.0, limits.shift, 3)
  flip_y, flip_x = rng.random(2) < limits.flip
  return BevDraw(float(angle), float(scale), shift, bool(flip_y), bool(flip_x))


def bev_matrix(draw: BevDraw) -> np.ndarray:
  """float64 [4, 4]: old to new homogeneous coordinates."""
  cos, sin = np.cos(draw.angle), np.sin(draw.angle)
  matrix = np.eye(4)
  matrix[:2, :2] = [[cos, -sin], [sin, cos]]
  matrix[:3, :3] *= draw.scale
  matrix[:3, 3] = draw.shift
  return np.diag([-1.0 if draw.flip_x else 1.0, -1.0 if draw.flip_y else 1.0, 1.0, 1.0]) @ matrix


def bev_points(draw: BevDraw, points: np.ndarray) -> np.ndarray:
  """Points [n, 3 or more] under a draw; further columns stay."""
  matrix = bev_matrix(draw)
  moved = points[:, :3].astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
  return np.concatenate([moved.astype(points.dtype), points[:, 3:]], axis=1)


def bev_boxes(draw: BevDraw, boxes: np.ndarray) -> np.ndarray:
  """Boxes [n, 9] (x, y, z, l, w, h, yaw, vx, vy) under a draw; yaw is not wrapped."""
  matrix = bev_matrix(draw)
  center = boxes[:, :3].astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
  yaw = boxes[:, 6:7] + draw.angle
  yaw = -yaw if draw.flip_y else yaw
  yaw = np.pi - yaw if draw.flip_x else yaw
  velocity = boxes[:, 7:9].astype(np.float64) @ matrix[:2, :2].T
  return np.concatenate([center, boxes[:, 3:6] * draw.scale, yaw, velocity], axis=1).astype(boxes.dtype)


def bev_cameras(draw: BevDraw, lidar2cam: np.ndarray) -> np.ndarray:
  """LiDAR to camera [..., 4, 4] for the moved LiDAR frame: projections of moved points stay where they were."""
  return lidar2cam @ np.linalg.inv(bev_matrix(draw))


def draw_image(rng: np.random.Generator, limits: ImageLimits, source: tuple[int, int] = SOURCE) -> ImageDraw:
  """A draw within limits: the part touches the bottom of the resized picture.

  Args:
    rng: source of randomness.
    limits: see the class.
    source: height and width before.
  """
  resize = float(rng.uniform(*limits.resize))
  left = int(rng.uniform(0, max(0, int(source[1] * resize) - limits.size[1])))
  return ImageDraw(resize, left, int(source[0] * resize) - limits.size[0], bool(rng.random() < limits.flip))


def central_image(size: tuple[int, int], source: tuple[int, int] = SOURCE) -> ImageDraw:
  """The draw of evaluations: the smallest resize that covers `size`, the bottom middle of the picture, not mirrored."""
  resize = max(size[0] / source[0], size[1] / source[1])
  left = int(max(0, int(source[1] * resize) - size[1]) / 2)
  return ImageDraw(resize, left, int(source[0] * resize) - size[0], False)


def image_matrix(draw: ImageDraw, size: tuple[int, int]) -> np.ndarray:
  """float64 [3, 3]: old to new homogeneous pixels; `size` is (height, width) of the result."""
  matrix = np.asarray([[draw.resize, 0, -draw.left], [0, draw.resize, -draw.top], [0, 0, 1.0]])
  mirror = np.asarray([[-1.0, 0, size[1]], [0, 1, 0], [0, 0, 1]])
  return mirror @ matrix if draw.flip else matrix


def transform_image(image: np.ndarray, draw: ImageDraw, size: tuple[int, int]) -> np.ndarray:
  """A picture under a draw: bilinear, without smoothing before it is made smaller; 0 outside.

  Args:
    image: [height, width, channels].
    draw: see the class.
    size: (height, width) of the result.

  Returns:
    float32 [*size, channels].
  """
  result = np.zeros((*size, image.shape[2]), np.float32)
  rows, y = _places(image.shape[0], draw.resize, draw.top, size[0])
  columns, x = _places(image.shape[1], draw.resize, draw.left, size[1])
  if not len(y) or not len(x):
    return result
  # Rows first, and only those that are needed: the columns of far fewer rows remain.
  low, high, part = _neighbours(y, image.shape[0])
  lines = image[low].astype(np.float32)
  lines += (image[high] - lines) * part[:, None, None]
  low, high, part = _neighbours(x, image.shape[1])
  pixels = np.take(lines, low, axis=1)
  pixels += (np.take(lines, high, axis=1) - pixels) * part[:, None]
  result[rows, columns] = pixels
  return result[:, ::-1] if draw.flip else result


def check_size(size: tuple[int, int]) -> None:
  """Refuses a size of pictures that the networks' strides do not divide.

  Raises:
    UserError: for a side that is not a positive multiple of 32.
  """
  if any(side <= 0 or side % PADDING for side in size):
    raise UserError(
      f'Pictures of {size[0]}x{size[1]} (height x width) must have sides that are multiples of {PADDING}.'
    )


def _places(source: int, resize: float, start: int, count: int) -> tuple[slice, np.ndarray]:
  """Which of `count` result pixels along one side show the picture, and where they lie in it."""
  resized = int(source * resize)
  first, last = min(max(0, -start), count), max(0, min(count, resized - start))
  pixels = np.arange(first, last) + start
  return slice(first, max(first, last)), (pixels + 0.5) * (source / max(resized, 1)) - 0.5


def _neighbours(places: np.ndarray, source: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The pixels on either side of every place, and how near the second is; edges repeat."""
  places = np.clip(places, 0, source - 1)
  low = np.floor(places).astype(np.int64)
  return low, np.minimum(low + 1, source - 1), (places - low).astype(np.float32)
