"""Oriented 3D boxes as arrays: corners, points inside, rectangles that overlap from above.

A box is x, y, z, l, w, h, yaw (, vx, vy): z is that of the BOTTOM centre, l lies along the box's own x, and yaw turns
counter-clockwise from +x. Functions of boxes alone take NumPy or JAX arrays and give the same kind.
"""

from typing import Any

import numpy as np

Array = Any

CORNERS = np.asarray(
  [[-1, -1, 0], [-1, -1, 2], [-1, 1, 2], [-1, 1, 0], [1, -1, 0], [1, -1, 2], [1, 1, 2], [1, 1, 0]], np.float32
)
"""Signs of the eight corners: four of the rear face, then the same four of the front face; z is 0 or 2 half heights."""

EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
"""Pairs of corners that an edge joins."""


def to_gravity(boxes: Array) -> Array:
  """Boxes [..., 7 or more] with the bottom centre's z -> with the gravity centre's."""
  return _shift_z(boxes, 0.5)


def to_bottom(boxes: Array) -> Array:
  """Boxes [..., 7 or more] with the gravity centre's z -> with the bottom centre's."""
  return _shift_z(boxes, -0.5)


def corners(boxes: Array) -> Array:
  """Corners [..., 8, 3] of boxes [..., 7 or more], in the order of `CORNERS`.

  Source: the boxes of mmdet3d, on which the authors' code builds.
  """
  _check(boxes)
  xp = boxes.__array_namespace__()
  local = xp.asarray(CORNERS, dtype=boxes.dtype) * (boxes[..., None, 3:6] / 2)
  cos, sin = xp.cos(boxes[..., 6:7]), xp.sin(boxes[..., 6:7])
  x = local[..., 0] * cos - local[..., 1] * sin
  y = local[..., 0] * sin + local[..., 1] * cos
  return xp.stack([x, y, local[..., 2]], axis=-1) + boxes[..., None, :3]


def yaw_difference(first: Array, second: Array, period: Array = 2 * np.pi) -> Array:
  """Smallest difference [...] of angles that are the same modulo `period`, in [0, period / 2]."""
  return abs((first - second + period / 2) % period - period / 2)


def points_in_boxes(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
  """bool [boxes, points]: which points lie inside, faces included.

  Source: the boxes of mmdet3d, on which the authors' code builds.

  Args:
    points: [points, 3 or more].
    boxes: [boxes, 7 or more].
  """
  _check(boxes)
  boxes = np.asarray(boxes, np.float64)
  inside = np.zeros((len(boxes), len(points)), bool)
  # Sorted by x, a cloud shows each box the few points of its strip.
  by_x = np.argsort(points[:, 0])
  radius = np.hypot(boxes[:, 3], boxes[:, 4]) / 2
  x = points[by_x, 0].astype(np.float64)
  strips = np.searchsorted(x, boxes[:, 0] - radius), np.searchsorted(x, boxes[:, 0] + radius, 'right')
  for row, box, first, last in zip(inside, boxes, *strips, strict=True):
    near = by_x[first:last]
    local = points[near, :3].astype(np.float64) - box[:3]
    cos, sin = np.cos(box[6]), np.sin(box[6])
    along, across = local[:, 0] * cos + local[:, 1] * sin, local[:, 1] * cos - local[:, 0] * sin
    row[near] = (
      (np.abs(along) <= box[3] / 2) & (np.abs(across) <= box[4] / 2) & (local[:, 2] >= 0) & (local[:, 2] <= box[5])
    )
  return inside


def overlap_from_above(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """bool [n, m]: whose rectangles in the xy plane share area; touching is not overlap.

  Two rectangles are apart if and only if they are so along one of their four sides' directions.

  Source: the separating axis theorem; the authors' pasting of objects asks for it.

  Args:
    first: boxes [n, 7 or more].
    second: boxes [m, 7 or more].
  """
  _check(first)
  _check(second)
  first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
  offset = second[None, :, :2] - first[:, None, :2]
  axes = []
  for box in (first, second):
    cos, sin = np.cos(box[:, 6]), np.sin(box[:, 6])
    axes += [np.stack([cos, sin], -1), np.stack([-sin, cos], -1)]
  apart = np.zeros(offset.shape[:2], bool)
  for number, axis in enumerate(axes):
    axis = axis[:, None] if number < 2 else axis[None]
    reach = _reach(first, axis, 1) + _reach(second, axis, 0)
    apart |= np.abs((offset * axis).sum(-1)) >= reach
  return ~apart


def _reach(boxes: np.ndarray, axis: np.ndarray, place: int) -> np.ndarray:
  """Half the length of the rectangles' shadows on axes [n, m, 2] (n or m may be 1); boxes lie along 1 - place."""
  yaw, length, width = (np.expand_dims(boxes[:, k], place) for k in (6, 3, 4))
  cos, sin = np.cos(yaw), np.sin(yaw)
  along = np.abs(axis[..., 0] * cos + axis[..., 1] * sin)
  across = np.abs(axis[..., 1] * cos - axis[..., 0] * sin)
  return (along * length + across * width) / 2


def _shift_z(boxes: Array, heights: float) -> Array:
  _check(boxes)
  xp = boxes.__array_namespace__()
  z = boxes[..., 2] + heights * boxes[..., 5]
  return xp.concatenate([boxes[..., :2], z[..., None], boxes[..., 3:]], axis=-1)


def _check(boxes: Array) -> None:
  if boxes.ndim < 1 or boxes.shape[-1] < 7:
    raise ValueError(f'Boxes are [..., 7 or more] (x, y, z, l, w, h, yaw), not {tuple(boxes.shape)}.')
