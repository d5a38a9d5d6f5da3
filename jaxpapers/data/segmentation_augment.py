"""Augmentations of images with label maps, on the host: example, numpy Generator -> example.

An example is {'image': uint8 [height, width, 3], 'label': uint8 [height, width], 255 where ignored}.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from jaxpapers.data.photometric import photometric_distortion

Example = dict[str, Any]
IGNORE = 255

__all__ = ['balanced_crop', 'fit', 'pad', 'photometric_distortion', 'random_flip', 'random_resize']


def _resize(example: Mapping[str, Any], size: tuple[int, int]) -> Example:
  shape = size[1], size[0]
  return {
    **example,
    'image': np.asarray(Image.fromarray(example['image']).resize(shape, Image.Resampling.BILINEAR)),
    'label': np.asarray(Image.fromarray(example['label']).resize(shape, Image.Resampling.NEAREST)),
  }


def fitted_size(height: int, width: int, long_side: float, short_side: float) -> tuple[int, int]:
  """(height, width) scaled so that neither the long nor the short side exceeds its bound."""
  factor = min(long_side / max(height, width), short_side / min(height, width))
  return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def random_resize(
  example: Mapping[str, Any],
  rng: np.random.Generator,
  long_side: int = 2048,
  short_side: int = 512,
  ratio: tuple[float, float] = (0.5, 2.0),
) -> Example:
  """Resizes, keeping the aspect, to bounds that are (long_side, short_side) times a random ratio."""
  factor = rng.uniform(*ratio)
  size = fitted_size(*example['label'].shape, int(long_side * factor), int(short_side * factor))
  return _resize(example, size)


def balanced_crop(
  example: Mapping[str, Any],
  rng: np.random.Generator,
  size: tuple[int, int],
  max_share: float = 0.75,
  tries: int = 10,
) -> Example:
  """A random part of at most `size` in which no class has more than `max_share` of the labelled pixels.

  Args:
    example: see the module.
    rng: source of randomness.
    size: (height, width); smaller where the image is.
    max_share: of one class; the last part drawn is taken where none satisfies it.
    tries: parts drawn.
  """
  image, label = example['image'], example['label']
  spare = max(label.shape[0] - size[0], 0), max(label.shape[1] - size[1], 0)
  for _ in range(tries):
    top, left = int(rng.integers(spare[0] + 1)), int(rng.integers(spare[1] + 1))
    part = slice(top, top + size[0]), slice(left, left + size[1])
    _, counts = np.unique(label[part][label[part] != IGNORE], return_counts=True)
    if len(counts) > 1 and counts.max() / counts.sum() < max_share:
      break
  return {**example, 'image': image[part], 'label': label[part]}


def random_flip(example: Mapping[str, Any], rng: np.random.Generator, probability: float = 0.5) -> Example:
  """Mirrors image and labels left to right."""
  if rng.random() >= probability:
    return dict(example)
  return {**example, 'image': example['image'][:, ::-1], 'label': example['label'][:, ::-1]}


def pad(example: Mapping[str, Any], size: tuple[int, int]) -> Example:
  """Adds zeros (image) and 255 (label) at the bottom and right up to `size` (height, width)."""
  height, width = example['label'].shape
  extra = ((0, size[0] - height), (0, size[1] - width))
  return {
    **example,
    'image': np.pad(example['image'], (*extra, (0, 0))),
    'label': np.pad(example['label'], extra, constant_values=IGNORE),
  }


def fit(image: np.ndarray, long_side: int, short_side: int, canvas: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
  """Resizes a test image, keeping the aspect, into `canvas`, padded with zeros at the bottom and right.

  Returns:
    (uint8 [*canvas, 3], [2] int32 (height, width) of the part that the image covers).
  """
  height, width = image.shape[:2]
  size = fitted_size(height, width, long_side, short_side)
  if size[0] > canvas[0] or size[1] > canvas[1]:
    factor = min(canvas[0] / height, canvas[1] / width)
    size = max(1, int(height * factor)), max(1, int(width * factor))
  result = np.zeros((*canvas, 3), np.uint8)
  resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR)
  result[: size[0], : size[1]] = np.asarray(resized)
  return result, np.asarray(size, np.int32)
