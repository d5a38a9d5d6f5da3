"""Datasets of detection and segmentation: COCO and ADE20K, as folders and from TFDS."""

import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from jaxpapers.data import tfds_source
from jaxpapers.data.coco import CocoInstances, read_image
from jaxpapers.engine.errors import UserError, suggest

IGNORE = 255
ADE_CLASSES = 150
COCO_CLASSES = 80


class DenseSource(Protocol):
  """Random access to examples, with the names of the classes.

  Detection: {'image': uint8 [height, width, 3], 'boxes': float32 [n, 4], 'labels': int32 [n], 'crowd': bool [n],
  'area': float32 [n]}. Segmentation: {'image', 'label': uint8 [height, width], 255 where ignored, 'index': int}.
  """

  names: Sequence[str]

  def __len__(self) -> int:
    """Number of examples."""

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Example `index`."""


class AdeFolder:
  """ADE20K scene parsing: `root/{images,annotations}/{training,validation}/NAME.{jpg,png}`; 150 classes."""

  def __init__(self, root: str | os.PathLike, split: str):
    """Lists the folder.

    Raises:
      UserError: for a missing folder, or an image without its annotation.
    """
    self._images = os.path.join(root, 'images', split)
    self._labels = os.path.join(root, 'annotations', split)
    for folder in (self._images, self._labels):
      if not os.path.isdir(folder):
        raise UserError(
          f'No folder {folder}: config.data.dir must be the unpacked ADEChallengeData2016 (scene parsing benchmark).'
        )
    self._stems = sorted(name[:-4] for name in os.listdir(self._images) if name.lower().endswith('.jpg'))
    if not self._stems:
      raise UserError(f'{self._images} holds no .jpg image.')
    present = set(os.listdir(self._labels))
    missing = [stem for stem in self._stems if f'{stem}.png' not in present]
    if missing:
      raise UserError(
        f'{os.path.join(self._labels, missing[0])}.png is missing ({len(missing)} such): each image needs its labels.'
      )
    self.names = [str(k + 1) for k in range(ADE_CLASSES)]

  def __len__(self) -> int:
    """Number of images."""
    return len(self._stems)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """See DenseSource; labels 1..150 become 0..149, and 0 becomes 255."""
    stem = self._stems[index]
    path = os.path.join(self._labels, f'{stem}.png')
    return _scene(read_image(os.path.join(self._images, f'{stem}.jpg')), read_label(path), index, path, ADE_CLASSES)


def read_label(path: str) -> np.ndarray:
  """uint8 [height, width] of a label image.

  Raises:
    UserError: naming a file that is no complete image, or has more than one channel.
  """
  try:
    with Image.open(path) as file:
      label = np.asarray(file)
  except OSError as error:
    raise UserError(f'{path} is no complete image: {error}.') from None
  if label.ndim != 2:
    raise UserError(f'{path} has {label.shape[-1]} channels: a label image has one, the class of each pixel.')
  return label


def _scene(image: np.ndarray, label: np.ndarray, index: int, name: str, classes: int) -> dict[str, Any]:
  if label.shape != image.shape[:2]:
    rows, columns = label.shape
    raise UserError(f'{name} is {columns}x{rows}, but its image {image.shape[1]}x{image.shape[0]}.')
  if label.max(initial=0) > classes:
    raise UserError(f'{name} holds label {label.max()}: labels are 0 (other) and 1..{classes}.')
  return {'image': image, 'label': (label.astype(np.int16) - 1).astype(np.uint8), 'index': index}


class TfdsScenes:
  """TFDS `scene_parse150`.

  Its annotations are those of the INSTANCE challenge (100 classes in the red channel), not of scene parsing: results
  are no ADE20K mIoU.
  """

  CLASSES = 100

  def __init__(self, split: str, data_dir: str):
    """Opens the prepared dataset."""
    self._source = tfds_source('scene_parse150', split, data_dir or None)
    self.names = [str(k + 1) for k in range(self.CLASSES)]

  def __len__(self) -> int:
    """Number of images."""
    return len(self._source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """See DenseSource."""
    example = self._source[index]
    label = np.asarray(example['annotation'])[..., 0]
    return _scene(np.asarray(example['image']), label, index, f'scene_parse150 example {index}', self.CLASSES)


class TfdsCoco:
  """TFDS `coco/2017`: boxes relative to the image (top, left, bottom, right), 80 classes."""

  def __init__(self, split: str, data_dir: str):
    """Opens the prepared dataset."""
    self._source = tfds_source('coco/2017', split, data_dir or None)
    self.names = [str(k) for k in range(COCO_CLASSES)]

  def __len__(self) -> int:
    """Number of images."""
    return len(self._source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """See DenseSource."""
    example = self._source[index]
    image = np.asarray(example['image'])
    objects = example['objects']
    height, width = image.shape[:2]
    boxes = np.asarray(objects['bbox'], np.float32).reshape(-1, 4)[:, [1, 0, 3, 2]]
    boxes = boxes * np.asarray([width, height, width, height], np.float32)
    labels = np.asarray(objects['label'], np.int32)
    name = f'coco/2017 example {index} (image {example.get("image/id")})'
    if np.any(labels >= COCO_CLASSES) or np.any(labels < 0):
      raise UserError(f'{name} has an object of unknown class {labels.max()}.')
    return {
      'image': image,
      'boxes': boxes,
      'labels': labels,
      'crowd': np.asarray(objects['is_crowd'], bool),
      'area': np.asarray(objects['area'], np.float32),
    }


def detection_source(name: str, split: str, data_dir: str, bad_annotations: str = 'error') -> DenseSource:
  """A detection set.

  Args:
    name: 'coco_folder' (data_dir holds {train,val}2017/ and annotations/) or 'coco' (TFDS).
    split: 'train' or 'validation'.
    data_dir: see `name`.
    bad_annotations: see CocoInstances.

  Raises:
    UserError: for an unknown name, or a missing or damaged set.
  """
  if name == 'coco':
    return TfdsCoco(split, data_dir)
  if name == 'coco_folder':
    if not data_dir:
      raise UserError(
        'Set --config.data.dir=FOLDER to COCO 2017: train2017/, val2017/ and annotations/ from https://cocodataset.org.'
      )
    folder = {'train': 'train2017', 'validation': 'val2017'}[split]
    annotations = os.path.join(data_dir, 'annotations', f'instances_{folder}.json')
    # Images without boxes have nothing to learn from, but count in evaluation.
    return CocoInstances(os.path.join(data_dir, folder), annotations, keep_empty=split != 'train', bad=bad_annotations)
  raise UserError(f'Unknown detection set config.data.name={name!r}.{suggest(name, ["coco", "coco_folder", "shapes"])}')


def segmentation_source(name: str, split: str, data_dir: str) -> DenseSource:
  """A segmentation set: 'ade20k_folder', or 'scene_parse150' (TFDS, see TfdsScenes).

  Raises:
    UserError: for an unknown name, or a missing or damaged set.
  """
  if name == 'ade20k_folder':
    if not data_dir:
      raise UserError(
        'Set --config.data.dir=FOLDER to ADE20K: images/ and annotations/ as in ADEChallengeData2016.zip of '
        'http://sceneparsing.csail.mit.edu.'
      )
    return AdeFolder(data_dir, {'train': 'training', 'validation': 'validation'}[split])
  if name == 'scene_parse150':
    return TfdsScenes({'train': 'train', 'validation': 'test'}[split], data_dir)
  known = ['ade20k_folder', 'scene_parse150', 'shapes']
  raise UserError(f'Unknown segmentation set config.data.name={name!r}.{suggest(name, known)}')
