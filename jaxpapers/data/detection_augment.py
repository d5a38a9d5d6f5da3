"""Augmentations of images with boxes, on the host: example, numpy Generator -> example.

An example is {'image': uint8 [height, width, 3], 'boxes': float32 [n, 4] (x1, y1, x2, y2), 'labels': int [n], ...};
every further key of `PER_OBJECT` is cut with the boxes. Order and numbers: SSD (Liu et al., 2016, section 2.2).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from jaxpapers.data.photometric import photometric_distortion
from jaxpapers.engine.errors import UserError

Example = dict[str, Any]
PER_OBJECT = ('boxes', 'labels', 'crowd', 'area')
MIN_IOUS = (0.1, 0.3, 0.5, 0.7, 0.9)

__all__ = [
  'expand',
  'min_iou_crop',
  'random_flip',
  'resize',
  'resize_keep_ratio',
  'pad_objects',
  'photometric_distortion',
]


def expand(
  example: Mapping[str, Any],
  rng: np.random.Generator,
  fill: Sequence[float],
  probability: float = 0.5,
  ratio: tuple[float, float] = (1.0, 4.0),
) -> Example:
  """Puts the image at a random place of a canvas up to `ratio` times larger: objects become smaller.

  Args:
    example: see the module.
    rng: source of randomness.
    fill: colour of the canvas (the mean of the set), in 0..255.
    probability: of doing anything.
    ratio: bounds of the canvas's side relative to the image's.
  """
  if rng.random() >= probability:
    return dict(example)
  image = example['image']
  height, width = image.shape[:2]
  factor = rng.uniform(*ratio)
  canvas = np.empty((int(height * factor), int(width * factor), 3), image.dtype)
  canvas[:] = np.asarray(fill, np.float32).astype(image.dtype)
  top = int(rng.uniform(0, canvas.shape[0] - height))
  left = int(rng.uniform(0, canvas.shape[1] - width))
  canvas[top : top + height, left : left + width] = image
  return {**example, 'image': canvas, 'boxes': example['boxes'] + np.asarray([left, top, left, top], np.float32)}


def min_iou_crop(
  example: Mapping[str, Any],
  rng: np.random.Generator,
  min_ious: Sequence[float] = MIN_IOUS,
  min_side: float = 0.3,
  tries: int = 50,
) -> Example:
  """Cuts a random part whose IoU with every box is at least a threshold drawn from `min_ious`, 0 and "keep all".

  The part has sides of at least `min_side` of the image's, and an aspect between 1/2 and 2. Objects whose centre lies
  in the part stay, and are clipped; there is at least one.
  """
  image, boxes = example['image'], example['boxes']
  height, width = image.shape[:2]
  modes = (None, *min_ious, 0.0)
  while len(boxes):
    mode = modes[rng.integers(len(modes))]
    if mode is None:
      break
    for _ in range(tries):
      w, h = rng.uniform(min_side * width, width), rng.uniform(min_side * height, height)
      if not 0.5 <= h / w <= 2:
        continue
      left, top = int(rng.uniform(0, width - w)), int(rng.uniform(0, height - h))
      part = np.asarray([left, top, int(left + w), int(top + h)], np.float32)
      if part[2] <= part[0] or part[3] <= part[1] or _iou(part, boxes).min() < mode:
        continue
      center = (boxes[:, :2] + boxes[:, 2:]) / 2
      inside = np.all((center > part[:2]) & (center < part[2:]), axis=1)
      if inside.any():
        return _cut(example, part, inside)
  return dict(example)


def _iou(part: np.ndarray, boxes: np.ndarray) -> np.ndarray:
  side = np.minimum(part[2:], boxes[:, 2:]) - np.maximum(part[:2], boxes[:, :2])
  overlap = np.prod(np.maximum(side, 0), axis=1)
  union = np.prod(part[2:] - part[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - overlap
  return overlap / np.maximum(union, 1e-6)


def _cut(example: Mapping[str, Any], part: np.ndarray, keep: np.ndarray) -> Example:
  left, top, right, bottom = part.astype(int)
  result = {key: value[keep] if key in PER_OBJECT else value for key, value in example.items()}
  corner = part[[0, 1, 0, 1]]
  result['boxes'] = np.clip(result['boxes'], corner, part[[2, 3, 2, 3]]) - corner
  result['image'] = example['image'][top:bottom, left:right]
  return result


def random_flip(example: Mapping[str, Any], rng: np.random.Generator, probability: float = 0.5) -> Example:
  """Mirrors image and boxes left to right."""
  if rng.random() >= probability:
    return dict(example)
  boxes = example['boxes'].copy()
  boxes[:, [0, 2]] = example['image'].shape[1] - boxes[:, [2, 0]]
  return {**example, 'image': example['image'][:, ::-1], 'boxes': boxes}


def resize(example: Mapping[str, Any], size: tuple[int, int]) -> Example:
  """Resizes to (height, width), not keeping the aspect; adds 'scale' [2] (vertical, horizontal)."""
  image = example['image']
  scale = np.asarray([size[0] / image.shape[0], size[1] / image.shape[1]], np.float32)
  resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR)
  return {**example, 'image': np.asarray(resized), 'boxes': example['boxes'] * scale[[1, 0, 1, 0]], 'scale': scale}


def resize_keep_ratio(example: Mapping[str, Any], long_side: int, short_side: int, canvas: tuple[int, int]) -> Example:
  """Resizes so that neither side exceeds its bound, and pads with zeros at the bottom and right to `canvas`.

  Returns:
    the example with 'scale' [2] and 'image_size' [2] (height, width) of the part of the canvas that the image covers.

  Raises:
    UserError: if the canvas is too small.
  """
  height, width = example['image'].shape[:2]
  factor = min(long_side / max(height, width), short_side / min(height, width))
  size = int(height * factor + 0.5), int(width * factor + 0.5)
  if size[0] > canvas[0] or size[1] > canvas[1]:
    raise UserError(
      f'An image of {height}x{width} becomes {size[0]}x{size[1]}, larger than the canvas {tuple(canvas)}.'
    )
  result = resize(example, size)
  image = np.zeros((*canvas, 3), result['image'].dtype)
  image[: size[0], : size[1]] = result['image']
  return {**result, 'image': image, 'image_size': np.asarray(size, np.int32)}


def pad_objects(example: Mapping[str, Any], count: int, keep_crowd: bool = False) -> Example:
  """Objects padded to `count`: 'boxes' [count, 4], 'labels' [count], 'truth_valid' [count] bool.

  Boxes that clipping made empty are left out.

  Args:
    example: see the module.
    count: of the result.
    keep_crowd: keep crowd regions too, and the padded 'crowd' and 'area' of every object: for evaluation. Else they are
      left out: for training.

  Raises:
    UserError: if there are more objects than `count`.
  """
  boxes = example['boxes']
  keep = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
  if 'crowd' in example and not keep_crowd:
    keep &= ~example['crowd']
  found = int(keep.sum())
  if found > count:
    raise UserError(f'An image has {found} objects: set config.data.max_objects to at least that, not {count}.')
  names = PER_OBJECT if keep_crowd else ('boxes', 'labels')
  result = {key: value for key, value in example.items() if key not in PER_OBJECT}
  for name in names:
    value = np.asarray(example[name])[keep]
    result[name] = np.pad(value, [(0, count - found)] + [(0, 0)] * (value.ndim - 1))
  result['truth_valid'] = np.arange(count) < found
  return result
