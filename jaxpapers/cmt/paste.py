"""Pasting objects of other scenes into a scene: points and, in the same places, pictures.

Cut and paste from a database comes from SECOND (Yan et al., 2018); pictures are blended as in CMT's recipe.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxpapers.cmt.boxes import overlap_from_above, points_in_boxes
from jaxpapers.cmt.database import Database, rectangles

TARGETS = (2, 3, 7, 4, 6, 2, 6, 6, 2, 2)
"""Objects that a scene should have of each class of `metrics.CLASSES`."""
SHARE = 0.5
"""Of a pasted picture in the blend."""


class Pasted(NamedTuple):
  """A scene with objects added at the end.

  Attributes:
    points: float32 [n, 5].
    boxes: float32 [m, 9].
    labels: int32 [m].
    pictures: per box, uint8 [height, width, 3] of an added one; None for those that were there or have none.
    added: how many boxes are new.
  """

  points: np.ndarray
  boxes: np.ndarray
  labels: np.ndarray
  pictures: list[np.ndarray | None]
  added: int


def choose(
  boxes: np.ndarray,
  labels: np.ndarray,
  database: Database,
  rng: np.random.Generator,
  targets: Sequence[int] = TARGETS,
) -> np.ndarray:
  """int [k]: rows of the database that bring a scene nearer to its targets and overlap nothing, seen from above.

  Candidates are drawn class by class, as many as are missing, and are refused where they overlap a box that is there or
  already accepted.
  """
  taken, chosen = np.asarray(boxes, np.float64)[:, :7], []
  for label, target in enumerate(targets):
    pool = database.rows[label]
    wanted = min(target - int((labels == label).sum()), len(pool))
    if wanted <= 0:
      continue
    for row in pool[rng.choice(len(pool), wanted, replace=False)]:
      box = database.boxes[row : row + 1, :7].astype(np.float64)
      if not overlap_from_above(box, taken).any():
        taken = np.concatenate([taken, box])
        chosen.append(row)
  return np.asarray(chosen, np.int64)


def paste(points: np.ndarray, boxes: np.ndarray, labels: np.ndarray, database: Database, rows: np.ndarray) -> Pasted:
  """Adds objects at the places where they were; what lies inside their boxes makes room.

  Args:
    points: float32 [n, 5].
    boxes: float32 [m, 9], bottom centres.
    labels: int [m].
    database: of objects.
    rows: int [k], which of them.
  """
  added = database.boxes[rows]
  entries = [database[row] for row in rows]
  clouds = []
  for entry, box in zip(entries, added, strict=True):
    cloud = entry.points.copy()
    cloud[:, :3] += box[:3]
    clouds.append(cloud)
  free = ~points_in_boxes(points, added).any(0)
  return Pasted(
    np.concatenate([points[free], *clouds]),
    np.concatenate([boxes, added]),
    np.concatenate([labels, database.labels[rows]]).astype(np.int32),
    [None] * len(boxes) + [entry.picture for entry in entries],
    len(rows),
  )


def blend(image: np.ndarray, scene: Pasted, lidar2img: np.ndarray) -> np.ndarray:
  """A camera's picture with the added objects at half strength, far ones first.

  Objects that were there are blended again in their turn, so that near ones stay before far ones that were added.

  Args:
    image: [height, width, 3].
    scene: with its pictures.
    lidar2img: [4, 4].

  Returns:
    float32 [height, width, 3].
  """
  result = image.astype(np.float32)
  if not scene.added:
    return result
  places, visible = rectangles(lidar2img, scene.boxes, image.shape[:2])
  first = len(scene.boxes) - scene.added
  for row in np.argsort(-np.hypot(scene.boxes[:, 0], scene.boxes[:, 1]), kind='stable'):
    if not visible[row] or (row >= first and scene.pictures[row] is None):
      continue
    left, top, right, bottom = places[row]
    if row < first:
      patch = image[top:bottom, left:right]
    else:
      patch = np.asarray(Image.fromarray(scene.pictures[row]).resize((right - left, bottom - top), Image.BILINEAR))
    part = result[top:bottom, left:right]
    part += SHARE * (patch - part)
  return result
