"""Large-scale jitter of images with outlined objects, on the host.

The public program draws one number for both crop offsets, so that crops lie on a diagonal; here they are independent.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxpapers.engine.errors import UserError
from jaxpapers.reft.coco_data import fit_placement, mark
from jaxpapers.reft.segmentations import Placement, place_image, place_mask

PAD = 128
KEPT = 0.2
"""Share of a support object's area that must stay in the crop."""


def draw_placement(
  source: tuple[int, int],
  rng: np.random.Generator,
  size: int = 1024,
  scale: tuple[float, float] = (0.1, 2.0),
  flip: float = 0.5,
) -> Placement:
  """A random mirror, size and crop.

  Args:
    source: (height, width) of the image.
    rng: source of randomness.
    size: of the canvas, in pixels.
    scale: bounds of s: the image is resized, keeping its aspect, so that it just fits in a box of s * size.
    flip: probability of mirroring left to right.
  """
  box = rng.uniform(*scale) * size
  factor = min(box / source[0], box / source[1])
  resized = tuple(max(1, round(side * factor)) for side in source)
  offset = tuple(int(rng.integers(max(side - size, 0) + 1)) for side in resized)
  return Placement(tuple(source), bool(rng.random() < flip), resized, offset, (size, size))


def jitter(
  example: Mapping[str, Any],
  rng: np.random.Generator,
  *,
  max_objects: int,
  size: int = 1024,
  scale: tuple[float, float] = (0.1, 2.0),
  flip: float = 0.5,
) -> dict[str, np.ndarray]:
  """A training image with its objects, padded to one number; objects that the crop emptied are dropped.

  Args:
    example: of `OutlinedImages`.
    rng: source of randomness.
    max_objects: of the result.
    size: see `draw_placement`.
    scale: see `draw_placement`.
    flip: see `draw_placement`.

  Returns:
    'image' uint8 [size, size, 3] (128 beside the image), 'masks' bool [max_objects, size, size], 'classes' int32
    [max_objects], -1 where there is no object.

  Raises:
    UserError: naming an image with more objects than `max_objects`.
  """
  count = len(example['labels'])
  if count > max_objects:
    raise UserError(
      f'{example["name"]} has {count} objects: set config.data.max_objects to at least that, not {max_objects}.'
    )
  placement = draw_placement(example['image'].shape[:2], rng, size, scale, flip)
  masks, classes = np.zeros((max_objects, size, size), bool), np.full(max_objects, -1, np.int32)
  at = 0
  for segmentation, label in zip(example['segmentations'], example['labels'], strict=True):
    masks[at] = place_mask(segmentation, placement)
    if masks[at].any():
      classes[at] = label
      at += 1
  return {'image': place_image(example['image'], placement, PAD), 'masks': masks, 'classes': classes}


def jitter_support(
  example: Mapping[str, Any],
  slot: int,
  rng: np.random.Generator,
  *,
  size: int = 1024,
  scale: tuple[float, float] = (0.5, 1.5),
  flip: float = 0.5,
  tries: int = 10,
) -> tuple[np.ndarray, np.ndarray]:
  """A support image and the mask of its one object, of which at least a fifth stays in the crop.

  Args:
    example: of `OutlinedImages`.
    slot: which object.
    rng: source of randomness.
    size: see `draw_placement`.
    scale: see `draw_placement`.
    flip: see `draw_placement`.
    tries: crops drawn; after as many in vain the whole image is fitted into the canvas.

  Returns:
    (uint8 [size, size, 3] with 128 beside the image, bool [size, size], never empty).
  """
  segmentation = example['segmentations'][slot]
  source = example['image'].shape[:2]
  whole = place_mask(segmentation, Placement(source, False, source, (0, 0), source)).sum()
  for _ in range(tries):
    placement = draw_placement(source, rng, size, scale, flip)
    mask = place_mask(segmentation, placement)
    grown = np.prod(placement.resized) / np.prod(source)
    if mask.any() and mask.sum() >= KEPT * whole * grown:
      return place_image(example['image'], placement, PAD), mask
  placement = fit_placement(source, size)
  return place_image(example['image'], placement, PAD), mark(segmentation, placement)
