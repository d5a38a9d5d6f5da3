"""What happens to an image before a detector or segmenter sees it: the published recipes."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxpapers.data import detection_augment as detection
from jaxpapers.data import segmentation_augment as segmentation
from jaxpapers.data.image import IMAGENET_MEAN

Example = Mapping[str, Any]
FILL = tuple(255 * value for value in IMAGENET_MEAN)


def ssd_training(size: tuple[int, int], max_objects: int) -> Callable[[Example, np.random.Generator], dict[str, Any]]:
  """Expand, minimum-IoU crop, resize to `size`, flip, photometric distortion."""

  def transform(example: Example, rng: np.random.Generator) -> dict[str, Any]:
    example = _objects(example)
    example = detection.expand(example, rng, FILL)
    example = detection.min_iou_crop(example, rng)
    example = detection.random_flip(detection.resize(example, size), rng)
    image = detection.photometric_distortion(example['image'], rng)
    example = detection.pad_objects({**example, 'image': image}, max_objects)
    return {**_training(example), 'image_size': np.asarray(size, np.int32)}

  return transform


def retinanet_training(
  long_side: int, short_side: int, canvas: tuple[int, int], max_objects: int
) -> Callable[[Example, np.random.Generator], dict[str, Any]]:
  """Resize keeping the aspect, flip, pad to `canvas`."""

  def transform(example: Example, rng: np.random.Generator) -> dict[str, Any]:
    example = detection.random_flip(_objects(example), rng)
    example = detection.resize_keep_ratio(example, long_side, short_side, canvas)
    example = detection.pad_objects(example, max_objects)
    return {**_training(example), 'image_size': example['image_size']}

  return transform


def _objects(example: Example) -> dict[str, Any]:
  """Without crowd regions, which no crop may count."""
  keep = ~example['crowd']
  return {key: value[keep] if key in detection.PER_OBJECT else value for key, value in example.items()}


def _training(example: Example) -> dict[str, Any]:
  return {key: np.ascontiguousarray(example[key]) for key in ('image', 'boxes', 'labels', 'truth_valid')}


def detection_test(
  size: tuple[int, int], max_objects: int, keep_ratio: tuple[int, int] | None = None
) -> Callable[[Example], dict[str, Any]]:
  """Resizes to `size`, or keeping the aspect to (long side, short side) and padded to `size`.

  The result holds the ground truth in the coordinates of the original image, crowds included, its 'size' [2] (height,
  width), and the 'scale' [2] (vertical, horizontal) that leads back.
  """

  def transform(example: Example) -> dict[str, Any]:
    if keep_ratio is None:
      resized = detection.resize(example, size)
      covered = np.asarray(size, np.int32)
    else:
      resized = detection.resize_keep_ratio(example, *keep_ratio, size)
      covered = resized['image_size']
    truth = detection.pad_objects(example, max_objects, keep_crowd=True)
    return {
      'image': resized['image'],
      'image_size': covered,
      'scale': resized['scale'],
      'size': np.asarray(example['image'].shape[:2], np.int32),
      **{name: truth[name] for name in (*detection.PER_OBJECT, 'truth_valid')},
    }

  return transform


def segmentation_training(size: tuple[int, int]) -> Callable[[Example, np.random.Generator], dict[str, Any]]:
  """Resize to a random scale, class-balanced crop of `size`, flip, photometric distortion, pad."""

  def transform(example: Example, rng: np.random.Generator) -> dict[str, Any]:
    example = segmentation.random_resize(example, rng)
    example = segmentation.random_flip(segmentation.balanced_crop(example, rng, size), rng)
    image = segmentation.photometric_distortion(example['image'], rng)
    example = segmentation.pad({**example, 'image': image}, size)
    return {name: np.ascontiguousarray(example[name]) for name in ('image', 'label')}

  return transform


def segmentation_test(canvas: tuple[int, int]) -> Callable[[Example], dict[str, Any]]:
  """Resizes to a short side of 512 (or what fits the canvas), padded to `canvas`; labels are read again for scoring."""

  def transform(example: Example) -> dict[str, Any]:
    image, size = segmentation.fit(example['image'], 2048, 512, canvas)
    return {'image': image, 'image_size': size, 'index': np.int32(example['index'])}

  return transform
