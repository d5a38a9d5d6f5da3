"""A database of single objects, cut from annotated keyframes for pasting into others.

A folder of three files: the points of all objects, their pictures (JPEG) one after the other, and an index, which is
written last.

python -m jaxpapers.cmt.database /data/objects --root /data/nuscenes --version v1.0-trainval --split train
"""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath
from PIL import Image
from tqdm import tqdm

from jaxpapers.cmt import geometry
from jaxpapers.cmt.boxes import corners, points_in_boxes
from jaxpapers.cmt.metrics import CLASSES
from jaxpapers.cmt.nuscenes import Frame, NuScenes, lidar2img
from jaxpapers.cmt.sweeps import COLUMNS, aggregate, read_picture
from jaxpapers.engine.errors import UserError

MIN_POINTS = 5
EGO_RADIUS = 1.0
"""Metres around the sensor within which points belong to the vehicle itself."""
_QUALITY = 95
_FILES = ('points.bin', 'pictures.bin', 'index.npz')


class Entry(NamedTuple):
  """An object: points [n, 5] relative to the bottom centre, and its picture uint8 [height, width, 3] (BGR) or None."""

  points: np.ndarray
  picture: np.ndarray | None


class Database:
  """Objects on disk.

  Attributes:
    boxes: float32 [n, 9], where each was, in its own LiDAR frame.
    labels: int [n].
    rows: of every class.
  """

  def __init__(self, folder: str | os.PathLike):
    """Opens a folder that `build` wrote.

    Raises:
      UserError: if it is missing, unfinished, or does not fit its index.
    """
    self._folder = os.fspath(folder)
    points, pictures, index = (os.path.join(self._folder, name) for name in _FILES)
    if not os.path.exists(index):
      raise UserError(f'{self._folder} holds no finished database of objects ({_FILES[2]} is missing); build it first.')
    with np.load(index, allow_pickle=False) as file:
      self.boxes, self.labels = file['boxes'], file['labels']
      self._points, self._pictures = file['points'], file['pictures']
    for path, size in ((points, 4 * COLUMNS * self._points[-1]), (pictures, self._pictures[-1])):
      found = os.path.getsize(path) if os.path.exists(path) else 0
      if found != size:
        raise UserError(f'{path} has {found:,} bytes, not {size:,} as {_FILES[2]} says; build the database again.')
    self.rows = [np.flatnonzero(self.labels == label) for label in range(len(CLASSES))]

  def __len__(self) -> int:
    """Number of objects."""
    return len(self.labels)

  def __getitem__(self, row: int) -> Entry:
    """Reads one object."""
    first, last = self._points[row : row + 2]
    count = int(last - first) * COLUMNS
    points = np.fromfile(os.path.join(self._folder, _FILES[0]), '<f4', count, offset=4 * COLUMNS * int(first))
    first, last = self._pictures[row : row + 2]
    picture = None
    if last > first:
      with open(os.path.join(self._folder, _FILES[1]), 'rb') as file:
        file.seek(int(first))
        encoded = file.read(int(last - first))
      picture = np.asarray(Image.open(io.BytesIO(encoded)).convert('RGB'))[..., ::-1]
    return Entry(points.reshape(-1, COLUMNS), picture)


def build(
  dataset: NuScenes,
  tokens: Sequence[str],
  folder: str | os.PathLike,
  *,
  sweeps: int = 10,
  progress: Callable[[int], None] | None = None,
) -> Database:
  """Cuts every object of the detection classes with at least `MIN_POINTS` points out of some keyframes.

  Clouds are aggregated without the points of the vehicle itself; the picture is the largest among the cameras that see
  all of the box.

  Args:
    dataset: with annotations.
    tokens: samples, of the training split.
    folder: made if needed; an earlier database in it is replaced.
    sweeps: earlier clouds beside the keyframe's.
    progress: called with the number of every finished sample.
  """
  folder = epath.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / _FILES[2]).unlink(missing_ok=True)
  boxes, labels, point_ends, picture_ends = [], [], [0], [0]
  with open(folder / _FILES[0], 'wb') as point_file, open(folder / _FILES[1], 'wb') as picture_file:
    for number, token in enumerate(tokens):
      frame = dataset.frame(token, sweeps)
      objects = frame.objects
      kept = np.flatnonzero(np.isin(objects.names, CLASSES))
      points = aggregate(frame, EGO_RADIUS)
      inside = points_in_boxes(points, objects.boxes[kept])
      kept, inside = kept[inside.sum(1) >= MIN_POINTS], inside[inside.sum(1) >= MIN_POINTS]
      found = np.nan_to_num(objects.boxes[kept])
      for row, box, mask, picture in zip(kept, found, inside, _pictures(frame, found), strict=True):
        local = points[mask]
        local[:, :3] -= box[:3]
        point_file.write(local.astype('<f4').tobytes())
        picture_file.write(picture)
        boxes.append(box)
        labels.append(CLASSES.index(objects.names[row]))
        point_ends.append(point_ends[-1] + len(local))
        picture_ends.append(picture_ends[-1] + len(picture))
      if progress is not None:
        progress(number)
  if not labels:
    raise UserError(f'None of the {len(tokens)} samples has an object with {MIN_POINTS} points: there is no database.')
  part = folder / 'index.tmp.npz'
  np.savez(
    part,
    boxes=np.asarray(boxes, np.float32),
    labels=np.asarray(labels, np.int32),
    points=np.asarray(point_ends),
    pictures=np.asarray(picture_ends),
  )
  part.replace(folder / _FILES[2])
  return Database(folder)


def rectangles(matrix: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
  """Where boxes appear in a picture.

  Args:
    matrix: lidar2img [4, 4].
    boxes: [n, 7 or more], bottom centres.
    size: height and width.

  Returns:
    int [n, 4] (left, top, right, bottom), clipped to the picture; and bool [n]: all corners lie before the camera and
    something of the rectangle in the picture.
  """
  pixels, depth = geometry.project(matrix, corners(np.asarray(boxes, np.float64)))
  low, high = np.floor(pixels.min(1)), np.ceil(pixels.max(1))
  limit = np.asarray([size[1], size[0]])
  clipped = np.concatenate([np.clip(low, 0, limit), np.clip(high, 0, limit)], axis=1)
  clipped = np.where((depth > 0).all(1)[:, None], clipped, 0).astype(np.int64)
  return clipped, (clipped[:, 2:] > clipped[:, :2]).all(1)


def _pictures(frame: Frame, boxes: np.ndarray) -> list[bytes]:
  """The encoded picture of every box, empty if no camera sees all of it."""
  best, areas = [b''] * len(boxes), np.zeros(len(boxes))
  if not len(boxes):
    return best
  for camera in frame.cameras:
    picture = read_picture(camera)
    places, visible = rectangles(lidar2img(camera.intrinsics, camera.lidar2cam), boxes, picture.shape[:2])
    area = np.where(visible, np.prod(places[:, 2:] - places[:, :2], axis=1), 0)
    for row in np.flatnonzero(area > areas):
      left, top, right, bottom = places[row]
      encoded = io.BytesIO()
      Image.fromarray(np.ascontiguousarray(picture[top:bottom, left:right, ::-1])).save(
        encoded, 'JPEG', quality=_QUALITY
      )
      best[row], areas[row] = encoded.getvalue(), area[row]
  return best


def main(argv: list[str] | None = None) -> int:
  """Builds a database and says how many objects of each class it holds."""
  parser = argparse.ArgumentParser(prog='python -m jaxpapers.cmt.database', description='Cut objects for pasting.')
  parser.add_argument('folder', help='where the database is written')
  parser.add_argument('--root', required=True, help='folder with samples/, sweeps/ and the tables')
  parser.add_argument('--version', default='v1.0-trainval', help='folder of the tables')
  parser.add_argument('--split', default='train', help='such as train or mini_train')
  args = parser.parse_args(argv)
  try:
    dataset = NuScenes(args.root, args.version)
    tokens = dataset.tokens(args.split)
    with tqdm(total=len(tokens), unit='keyframe') as bar:
      built = build(dataset, tokens, args.folder, progress=lambda _: bar.update())
  except UserError as error:
    print(error, file=sys.stderr)
    return error.exit_code
  for name, rows in zip(CLASSES, built.rows, strict=True):
    print(f'{name:22s} {len(rows)}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
