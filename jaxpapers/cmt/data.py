"""nuScenes as batches for CMT: a source of keyframes, the recipes' transforms, and static shapes.

A batch is a mapping of arrays (B scenes, P points, V cameras, G boxes):
  points float32 [B, P, 5], points_mask bool [B, P]
  images float32 [B, V, H, W, 3], BGR 0..255 (with cameras)
  lidar2img, img2lidar float32 [B, V, 4, 4]
  boxes float32 [B, G, 9] (x, y, z of the bottom, l, w, h, yaw, vx, vy), labels int32 [B, G], boxes_mask bool [B, G]
  has_lidar bool [B], has_camera bool [B, V]
  index int32 [B]: which sample of the source
  dropped_points, dropped_boxes int32 [B]: how many the static sizes had no room for
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxpapers import data
from jaxpapers.cmt import augment, checks
from jaxpapers.cmt.database import Database
from jaxpapers.cmt.head import PC_RANGE
from jaxpapers.cmt.metrics import CLASSES
from jaxpapers.cmt.modality import masked_modal
from jaxpapers.cmt.nuscenes import NuScenes, Objects, lidar2img
from jaxpapers.cmt.paste import blend, choose, paste
from jaxpapers.cmt.sweeps import aggregate, read_picture
from jaxpapers.cmt.tables import CAMERAS
from jaxpapers.engine.errors import UserError

Example = Mapping[str, Any]


class Recipe(NamedTuple):
  """What happens to a keyframe.

  Attributes:
    max_points: P.
    max_boxes: G.
    pc_range: low x, y, z, high x, y, z of what is kept, metres.
    bev: limits of the scene's draws in training.
    image: limits of the pictures' draws, with their final size; None without cameras.
    lidar: whether clouds are read.
    masked_modal: whether a sensor is zeroed in half of the training scenes.
  """

  max_points: int
  max_boxes: int
  pc_range: Sequence[float] = PC_RANGE
  bev: augment.BevLimits = augment.FUSION_BEV
  image: augment.ImageLimits | None = None
  lidar: bool = True
  masked_modal: bool = False


class NuScenesSource:
  """Random access to keyframes: what is on disk, not yet augmented.

  `source[i]` is {'index', 'token', 'points' float32 [n, 5], 'images' list of uint8 pictures (BGR), 'lidar2cam' and
  'intrinsics' float64 [V, ...], 'boxes' float32 [m, 9], 'labels' int32 [m]}. Boxes are those of the detection classes
  that a LiDAR point hits; a velocity that is unknown is 0.
  """

  def __init__(
    self,
    dataset: NuScenes,
    tokens: Sequence[str],
    *,
    lidar: bool = True,
    cameras: bool = True,
    sweeps: int = 10,
    indices: np.ndarray | None = None,
  ):
    """Binds a set to samples.

    Args:
      dataset: the tables.
      tokens: samples.
      lidar: read clouds.
      cameras: read pictures.
      sweeps: earlier clouds beside the keyframe's.
      indices: which samples in which order, possibly repeated (see `cbgs.resample`); None for each once.

    Raises:
      UserError: if there is no sensor.
    """
    if not lidar and not cameras:
      raise UserError('Neither LiDAR nor cameras are asked for: there is nothing to detect objects from.')
    self.dataset, self.tokens = dataset, list(tokens)
    self._lidar, self._cameras, self._sweeps = lidar, cameras, sweeps
    self._indices = np.arange(len(self.tokens)) if indices is None else np.asarray(indices)

  def __len__(self) -> int:
    """Number of examples."""
    return len(self._indices)

  def __getitem__(self, place: int) -> dict[str, Any]:
    """See the class."""
    index = int(self._indices[place])
    frame = self.dataset.frame(self.tokens[index], self._sweeps if self._lidar else 0)
    boxes, labels = detection_objects(frame.objects)
    return {
      'index': index,
      'token': frame.token,
      'points': aggregate(frame) if self._lidar else np.zeros((0, 5), np.float32),
      'images': [read_picture(camera) for camera in frame.cameras] if self._cameras else [],
      'lidar2cam': np.stack([camera.lidar2cam for camera in frame.cameras]),
      'intrinsics': np.stack([camera.intrinsics for camera in frame.cameras]),
      'boxes': boxes,
      'labels': labels,
    }


def detection_objects(objects: Objects) -> tuple[np.ndarray, np.ndarray]:
  """Boxes float32 [n, 9] and labels int32 [n] of the objects of detection classes that a LiDAR point hits."""
  kept = np.isin(objects.names, CLASSES) & (objects.lidar_points > 0)
  labels = np.asarray([CLASSES.index(name) for name in objects.names[kept]], np.int32)
  return np.nan_to_num(objects.boxes[kept]).astype(np.float32), labels


class TrainTransform:
  """(example, rng) -> example of static shapes: paste, mask a sensor, move, filter, shuffle, crop."""

  def __init__(self, recipe: Recipe, database: Database | None = None):
    """Binds a recipe; with a database, objects are pasted."""
    self._recipe, self._database = _checked(recipe), database

  def __call__(self, example: Example, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Augments one scene."""
    recipe = self._recipe
    points, boxes, labels = example['points'], example['boxes'], example['labels']
    images, lidar2cam, intrinsics = example['images'], example['lidar2cam'], example['intrinsics']
    if self._database is not None:
      rows = choose(boxes, labels, self._database, rng)
      scene = paste(points, boxes, labels, self._database, rows)
      points, boxes, labels = scene.points, scene.boxes, scene.labels
      matrices = lidar2img(intrinsics, lidar2cam)
      images = [blend(image, scene, matrix) for image, matrix in zip(images, matrices, strict=False)]
    move = augment.draw_bev(rng, recipe.bev)
    draw = None
    if recipe.image is not None:
      draw = augment.draw_image(rng, recipe.image, _source_size(example))
      images = np.stack([augment.transform_image(image, draw, recipe.image.size) for image in images])
    if recipe.masked_modal:
      # Zeroing and resizing pictures commute; points must be zeroed before they are moved.
      points, images = masked_modal(np.asarray(rng.random()), points, images)
    points, boxes = augment.bev_points(move, points), augment.bev_boxes(move, boxes)
    lidar2cam = augment.bev_cameras(move, lidar2cam)
    points = rng.permutation(_inside(points, recipe.pc_range))
    return _assemble(recipe, example, points, boxes, labels, images, draw, lidar2cam)


class EvaluationTransform:
  """Example -> example of static shapes, without augmentation."""

  def __init__(self, recipe: Recipe):
    """Binds a recipe."""
    self._recipe = _checked(recipe)

  def __call__(self, example: Example) -> dict[str, np.ndarray]:
    """Crops, filters and pads one scene."""
    recipe, images, draw = self._recipe, example['images'], None
    if recipe.image is not None:
      draw = augment.central_image(recipe.image.size, _source_size(example))
      images = np.stack([augment.transform_image(image, draw, recipe.image.size) for image in images])
    points = _inside(example['points'], recipe.pc_range)
    return _assemble(recipe, example, points, example['boxes'], example['labels'], images, draw, example['lidar2cam'])


class Switch:
  """Batches of one pipeline up to a step, and of another from there."""

  def __init__(self, step: int, before: data.Pipeline, after: data.Pipeline):
    """`before` serves the steps 0 .. step - 1."""
    self._step, self._before, self._after = step, before, after
    self.num_examples = after.num_examples

  def __call__(self, step: int) -> data.pipeline.Batch:
    """Batch `step`."""
    return (self._before if step < self._step else self._after)(step)

  def iterate(self, start: int) -> Iterator[data.pipeline.Batch]:
    """self(start), self(start + 1), ... made ahead of time."""
    if start < self._step:
      with contextlib.closing(self._before.iterate(start)) as batches:
        yield from itertools.islice(batches, self._step - start)
    yield from self._after.iterate(max(start, self._step))


def train_batches(
  source: NuScenesSource,
  recipe: Recipe,
  *,
  seed: int,
  batch_size: int,
  database: Database | None = None,
  paste_steps: int = 0,
  **options: Any,
) -> Callable[[int], data.pipeline.Batch]:
  """Endless training batches, see the module.

  Args:
    source: keyframes, usually resampled.
    recipe: what happens to them.
    seed: decides order and draws.
    batch_size: scenes in a global batch.
    database: of objects to paste.
    paste_steps: step from which nothing is pasted any more (the published recipe pastes in 15 of 20 epochs).
    **options: of `data.batches`: process, processes, workers, prefetch.
  """
  options = {'seed': seed, 'batch_size': batch_size, **options}
  plain = data.batches(source, augment=TrainTransform(recipe), **options)
  if database is None or paste_steps <= 0:
    return plain
  return Switch(paste_steps, data.batches(source, augment=TrainTransform(recipe, database), **options), plain)


def evaluation_batches(
  source: NuScenesSource, recipe: Recipe, batch_size: int, **options: Any
) -> data.EvaluationBatches:
  """A pass over all keyframes, each once; `valid` [B] marks real ones. Source: the authors' test pipeline."""
  return data.evaluation_batches(source, batch_size, EvaluationTransform(recipe), **options)


def _checked(recipe: Recipe) -> Recipe:
  if recipe.image is None and not recipe.lidar:
    raise UserError('A recipe needs LiDAR or pictures.')
  if recipe.masked_modal and (recipe.image is None or not recipe.lidar):
    raise UserError('masked_modal zeroes one of two sensors; the recipe has only one.')
  if recipe.image is not None:
    augment.check_size(recipe.image.size)
  if recipe.max_points < 1 or recipe.max_boxes < 1:
    raise UserError(f'max_points and max_boxes must be at least 1, not {recipe.max_points} and {recipe.max_boxes}.')
  return recipe


def _source_size(example: Example) -> tuple[int, int]:
  """Height and width of the pictures, which have one size."""
  sizes = {image.shape[:2] for image in example['images']}
  if len(sizes) != 1:
    raise UserError(f'The pictures of {example["token"]} should have one size, not {sorted(sizes)}.')
  return sizes.pop()


def _inside(points: np.ndarray, pc_range: Sequence[float]) -> np.ndarray:
  low, high = np.asarray(pc_range[:3], points.dtype), np.asarray(pc_range[3:], points.dtype)
  return points[((points[:, :3] > low) & (points[:, :3] < high)).all(1)]


def _assemble(
  recipe: Recipe,
  example: Example,
  points: np.ndarray,
  boxes: np.ndarray,
  labels: np.ndarray,
  images: Sequence[np.ndarray],
  draw: augment.ImageDraw | None,
  lidar2cam: np.ndarray,
) -> dict[str, np.ndarray]:
  """Static shapes: the first points and boxes that fit, and how many did not."""
  token = example['token']
  points = points if recipe.lidar else points[:0]
  checks.check_points(points, f'points of {token}')
  checks.check_boxes(boxes, labels, len(CLASSES), f'boxes of {token}')
  intrinsics = example['intrinsics']
  if draw is not None:
    intrinsics = augment.image_matrix(draw, recipe.image.size) @ intrinsics
  matrices = lidar2img(intrinsics, lidar2cam)
  low, high = recipe.pc_range[:2], recipe.pc_range[3:5]
  near = ((boxes[:, :2] > low) & (boxes[:, :2] < high)).all(1)
  boxes, labels = boxes[near], labels[near]
  result = {
    'lidar2img': matrices.astype(np.float32),
    'img2lidar': checks.image_to_lidar(matrices, len(CAMERAS), f'lidar2img of {token}'),
    'has_lidar': np.asarray(recipe.lidar),
    'has_camera': np.full(len(CAMERAS), recipe.image is not None),
    'index': np.asarray(example['index'], np.int32),
    'dropped_points': np.asarray(max(0, len(points) - recipe.max_points), np.int32),
    'dropped_boxes': np.asarray(max(0, len(boxes) - recipe.max_boxes), np.int32),
  }
  result['points'], result['points_mask'] = _padded(points, recipe.max_points)
  result['boxes'], result['boxes_mask'] = _padded(boxes, recipe.max_boxes)
  result['labels'], _ = _padded(labels, recipe.max_boxes)
  if recipe.image is not None:
    result['images'] = images
  return result


def _padded(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
  rows = rows[:count]
  padded = np.zeros((count, *rows.shape[1:]), rows.dtype)
  padded[: len(rows)] = rows
  return padded, np.arange(count) < len(rows)
