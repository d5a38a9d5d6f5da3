"""COCO instances: a folder of images with an instances JSON, as a random-access source."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_ops

from jaxpapers.engine.errors import UserError

TOLERANCE = 1.0
"""Pixels that a box may reach beyond the image: annotations of real sets are rounded."""


class CocoInstances:
  """Images with boxes, classes and, if asked for, masks.

  `source[i]` is {'image': uint8 [height, width, 3], 'boxes': float32 [n, 4] (x1, y1, x2, y2), 'labels': int32 [n],
  'crowd': bool [n], 'area': float32 [n], 'id': int} and, with masks, 'masks': bool [n, height, width].

  Attributes:
    ids: image ids, in the order of the source.
    categories: category ids, ascending; class k is categories[k].
    names: of the classes.
    skipped: how many annotations were left out, by reason.
  """

  def __init__(
    self,
    images: str | os.PathLike,
    annotations: str | os.PathLike,
    *,
    masks: bool = False,
    keep_empty: bool = True,
    bad: str = 'error',
  ):
    """Reads and checks the annotations.

    Args:
      images: folder of the image files.
      annotations: instances JSON.
      masks: read masks too.
      keep_empty: keep images without any object that is no crowd.
      bad: 'error', or 'skip': leave out annotations of zero area or outside of the image, and count them.

    Raises:
      UserError: naming the file and the id of a box outside the image, zero area, an unknown class or image, a missing
        image, a mask of another size.
    """
    if bad not in ('error', 'skip'):
      raise UserError(f"bad is 'error' or 'skip', not {bad!r}.")
    self._folder, self._file, self._masks = os.fspath(images), os.fspath(annotations), masks
    content = _read_json(self._file)
    self._images = {entry['id']: entry for entry in content['images']}
    self.categories = sorted(entry['id'] for entry in content['categories'])
    names = {entry['id']: entry.get('name', str(entry['id'])) for entry in content['categories']}
    self.names = [names[k] for k in self.categories]
    self._class = {category: k for k, category in enumerate(self.categories)}
    self.skipped: dict[str, int] = {}
    self._objects: dict[int, list[Mapping[str, Any]]] = {key: [] for key in self._images}
    for entry in content['annotations']:
      problem = self._problem(entry)
      if problem is None:
        self._objects[entry['image_id']].append(entry)
      elif bad == 'error':
        label = f'{self._file}: annotation {entry.get("id")}'
        raise UserError(f'{label} {problem}. Correct it, or set bad_annotations=skip to leave such out.')
      else:
        self.skipped[problem.split(':')[0]] = self.skipped.get(problem.split(':')[0], 0) + 1
    self._check_files()
    self.ids = [key for key in sorted(self._images) if keep_empty or self._has_object(key)]

  def __len__(self) -> int:
    """Number of images."""
    return len(self.ids)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """See the class."""
    key = self.ids[index]
    entry, objects = self._images[key], self._objects[key]
    height, width = entry['height'], entry['width']
    image = read_image(os.path.join(self._folder, entry['file_name']))
    if image.shape[:2] != (height, width):
      raise UserError(
        f'{entry["file_name"]} (image {key}) is {image.shape[1]}x{image.shape[0]}, not {width}x{height} as '
        f'{self._file} says.'
      )
    boxes = np.asarray([o['bbox'] for o in objects], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    example = {
      'image': image,
      'boxes': np.clip(boxes, 0, np.asarray([width, height, width, height], np.float32)),
      'labels': np.asarray([self._class[o['category_id']] for o in objects], np.int32),
      'crowd': np.asarray([bool(o.get('iscrowd', 0)) for o in objects], bool),
      'area': np.asarray([o.get('area', o['bbox'][2] * o['bbox'][3]) for o in objects], np.float32),
      'id': key,
    }
    if self._masks:
      masks = [decode_mask(o['segmentation'], height, width) for o in objects]
      example['masks'] = np.stack(masks) if masks else np.zeros((0, height, width), bool)
    return example

  def _has_object(self, key: int) -> bool:
    return any(not entry.get('iscrowd', 0) for entry in self._objects[key])

  def _problem(self, entry: Mapping[str, Any]) -> str | None:
    """What is wrong with an annotation, 'kind: details'; only zero area and outside boxes may be skipped."""
    label = f'{self._file}: annotation {entry.get("id")}'
    if entry['image_id'] not in self._images:
      raise UserError(f'{label} names image {entry["image_id"]}, which the file does not list.')
    image = self._images[entry['image_id']]
    if entry['category_id'] not in self._class:
      raise UserError(f'{label} is of class {entry["category_id"]}, which the file does not list under categories.')
    height, width = image['height'], image['width']
    where = f'image {image["id"]} ({image["file_name"]}, {width}x{height})'
    segmentation = entry.get('segmentation')
    if isinstance(segmentation, Mapping) and tuple(segmentation['size']) != (height, width):
      rows, columns = segmentation['size']
      raise UserError(f'{label} has a run-length mask of {columns}x{rows}, but lies on {where}.')
    if self._masks and not segmentation:
      raise UserError(f'{label} on {where} has no segmentation.')
    x, y, w, h = entry['bbox']
    if not (w > 0 and h > 0):
      return f'has zero area: box {entry["bbox"]} on {where}'
    if x < -TOLERANCE or y < -TOLERANCE or x + w > width + TOLERANCE or y + h > height + TOLERANCE:
      return f'lies outside its image: box {entry["bbox"]} on {where}'
    return None

  def _check_files(self) -> None:
    if not os.path.isdir(self._folder):
      raise UserError(f'No folder {self._folder}: name the folder of the images that {self._file} lists.')
    present = {}
    for entry in self._images.values():
      folder, name = os.path.split(entry['file_name'])
      if folder not in present:
        path = os.path.join(self._folder, folder)
        present[folder] = set(os.listdir(path)) if os.path.isdir(path) else set()
      if name not in present[folder]:
        raise UserError(
          f'{os.path.join(self._folder, entry["file_name"])} (image {entry["id"]} of {self._file}) is missing.'
        )


def _read_json(path: str) -> Mapping[str, Any]:
  try:
    with open(path) as file:
      content = json.load(file)
  except FileNotFoundError:
    raise UserError(f'No file {path}: name the instances JSON, such as annotations/instances_val2017.json.') from None
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise UserError(f'{path} is no complete JSON file: {error}.') from None
  for name in ('images', 'annotations', 'categories'):
    if not isinstance(content, Mapping) or not isinstance(content.get(name), Sequence):
      raise UserError(f'{path} has no list {name!r}: it is no COCO instances file.')
  return content


def read_image(path: str) -> np.ndarray:
  """uint8 [height, width, 3] of an image file.

  Raises:
    UserError: naming a file that is missing or no complete image.
  """
  try:
    with Image.open(path) as file:
      return np.asarray(file.convert('RGB'))
  except FileNotFoundError:
    raise UserError(f'{path} is missing.') from None
  except OSError as error:
    raise UserError(f'{path} is no complete image: {error}.') from None


def decode_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
  """bool [height, width] of COCO polygons, run lengths or compressed run lengths."""
  if isinstance(segmentation, Mapping):
    counts = segmentation['counts']
    encoded = (
      mask_ops.frPyObjects(segmentation, height, width)
      if isinstance(counts, Sequence) and not isinstance(counts, str | bytes)
      else segmentation
    )
  else:
    encoded = mask_ops.merge(mask_ops.frPyObjects(segmentation, height, width))
  return mask_ops.decode(encoded).astype(bool)
