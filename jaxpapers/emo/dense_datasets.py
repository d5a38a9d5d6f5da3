"""Training and test batches of the dense tasks, from `config.data`."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from jaxpapers.data import ArraySource, batches, evaluation_batches
from jaxpapers.emo import dense_data, dense_transforms
from jaxpapers.emo.shapes import KINDS, shapes
from jaxpapers.engine.errors import UserError


class Datasets(NamedTuple):
  """What a dense experiment reads.

  Attributes:
    train: training batches: uint8 'image' with 'boxes', 'labels', 'truth_valid', 'image_size', or with 'label'.
    test: () -> a pass over the test set; see DetectionEvaluation and SegmentationEvaluation for the keys.
    names: of the classes.
    read_label: segmentation sets that are scored in the size of the original image: index -> label; else None.
  """

  train: Callable
  test: Callable
  names: Sequence[str]
  read_label: Callable[[int], np.ndarray] | None = None


def num_classes(config: ml_collections.ConfigDict) -> int:
  """Classes of the set that `config.data` names, without reading it."""
  if config.data.name == 'shapes':
    return len(KINDS) + (config.task == 'segmentation')
  known = {
    'coco': dense_data.COCO_CLASSES,
    'coco_folder': dense_data.COCO_CLASSES,
    'ade20k_folder': dense_data.ADE_CLASSES,
    'scene_parse150': dense_data.TfdsScenes.CLASSES,
  }
  if config.data.name not in known:
    raise UserError(f'Unknown config.data.name={config.data.name!r}; known: shapes, {", ".join(known)}.')
  return known[config.data.name]


def datasets(config: ml_collections.ConfigDict) -> Datasets:
  """The sets of `config`."""
  settings = config.data
  options = dict(workers=settings.workers, prefetch=settings.prefetch)
  training = dict(seed=config.seed, batch_size=config.train.batch_size, **options)
  if settings.name == 'shapes':
    return _shapes(config, training, options)
  if config.task == 'detection':
    return _detection(config, training, options)
  return _segmentation(config, training, options)


def _detection(config: ml_collections.ConfigDict, training: dict[str, Any], options: dict[str, Any]) -> Datasets:
  settings = config.data
  source, test = (
    dense_data.detection_source(settings.name, split, settings.dir, settings.bad_annotations)
    for split in ('train', 'validation')
  )
  if settings.resize == 'stretch':
    augment = dense_transforms.ssd_training(tuple(settings.size), settings.max_objects)
    transform = dense_transforms.detection_test(tuple(settings.size), settings.max_objects)
  else:
    bounds = settings.long_side, settings.short_side
    augment = dense_transforms.retinanet_training(*bounds, tuple(settings.size), settings.max_objects)
    transform = dense_transforms.detection_test(tuple(settings.size), settings.max_objects, bounds)
  return Datasets(
    batches(source, augment=augment, **training),
    evaluation_batches(test, config.train.test_batch_size, transform, **options),
    source.names,
  )


def _segmentation(config: ml_collections.ConfigDict, training: dict[str, Any], options: dict[str, Any]) -> Datasets:
  settings = config.data
  source, test = (
    dense_data.segmentation_source(settings.name, split, settings.dir) for split in ('train', 'validation')
  )
  augment = dense_transforms.segmentation_training(tuple(settings.size))
  transform = dense_transforms.segmentation_test(tuple(settings.test_size))
  return Datasets(
    batches(source, augment=augment, **training),
    evaluation_batches(test, config.train.test_batch_size, transform, **options),
    source.names,
    lambda index: test[index]['label'],
  )


def _shapes(config: ml_collections.ConfigDict, training: dict[str, Any], options: dict[str, Any]) -> Datasets:
  settings = config.data
  if settings.size[0] != settings.size[1]:
    raise UserError(f'The shapes are square: config.data.size={tuple(settings.size)} must have two equal sides.')
  size = settings.size[0]
  train, test = (shapes(split, settings[f'{split}_images'], size, config.seed) for split in ('train', 'test'))
  if config.task == 'segmentation':
    sources = [ArraySource({'image': made['image'], 'label': made['mask'].astype(np.uint8)}) for made in (train, test)]
    names, flip = ('background', *KINDS), _flip_labels
  else:
    sources = [ArraySource(_objects(made)) for made in (train, test)]
    names, flip = KINDS, _flip_boxes
  return Datasets(
    batches(sources[0], batch_augment=flip, **training),
    evaluation_batches(sources[1], config.train.test_batch_size, **options),
    names,
  )


def _objects(made: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  count, size = made['image'].shape[:2]
  boxes = made['boxes']
  sides = np.full((count, 2), size, np.int32)
  return {
    'image': made['image'],
    'boxes': boxes,
    'labels': np.maximum(made['classes'], 0),
    'truth_valid': made['classes'] >= 0,
    'crowd': np.zeros(boxes.shape[:2], bool),
    'area': (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]),
    'image_size': sides,
    'size': sides,
    'scale': np.ones((count, 2), np.float32),
  }


def _flip_boxes(batch: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
  """Mirrors half of the images with their boxes, left to right and top to bottom."""
  image, boxes = batch['image'], batch['boxes']
  for axis, places in ((2, [0, 2]), (1, [1, 3])):
    chosen = rng.random(len(image)) < 0.5
    image = np.where(chosen[:, None, None, None], np.flip(image, axis), image)
    mirrored = boxes.copy()
    mirrored[..., places] = image.shape[axis] - boxes[..., places[::-1]]
    mirrored *= batch['truth_valid'][..., None]
    boxes = np.where(chosen[:, None, None], mirrored, boxes)
  return {**batch, 'image': image, 'boxes': boxes}


def _flip_labels(batch: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
  """Mirrors half of the images with their labels, left to right and top to bottom."""
  image, label = batch['image'], batch['label']
  for axis in (2, 1):
    chosen = rng.random(len(image)) < 0.5
    image = np.where(chosen[:, None, None, None], np.flip(image, axis), image)
    label = np.where(chosen[:, None, None], np.flip(label, axis), label)
  return {**batch, 'image': image, 'label': label}
