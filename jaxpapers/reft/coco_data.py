"""Images of an instances JSON with the outlines of chosen classes, as a random-access source."""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxpapers.data.coco import read_image
from jaxpapers.data.segmentation_augment import fit, fitted_size
from jaxpapers.engine.errors import UserError
from jaxpapers.reft.annotations import Annotations
from jaxpapers.reft.segmentations import Placement, place_image, place_mask
from jaxpapers.reft.splits import Split

Example = dict[str, Any]


class Objects(NamedTuple):
  """Every labelled object of a set, one row each, by image.

  Attributes:
    image: [n] int, index of the image in the set.
    slot: [n] int, which object of the image.
    label: [n] int, class.
  """

  image: np.ndarray
  slot: np.ndarray
  label: np.ndarray


def objects_of(classes: np.ndarray) -> Objects:
  """The objects of padded classes [images, objects]; negative ones are padding."""
  image, slot = np.nonzero(np.asarray(classes) >= 0)
  return Objects(image, slot, np.asarray(classes)[image, slot])


class OutlinedImages:
  """Random access to images with outlined objects; crowds are left out.

  `source[i]` is {'image': uint8 [height, width, 3], 'segmentations': list of COCO segmentations (polygons as arrays),
  'labels': int32 [n], 'id': int, 'name': str for messages}.

  Attributes:
    ids: image ids, in the order of the source.
    objects: rows of all objects.
  """

  def __init__(
    self,
    annotations: Annotations,
    folder: str | os.PathLike,
    split: Split,
    *,
    classes: Sequence[int] = (),
    keep_empty: bool = False,
    max_objects: int | None = None,
  ):
    """Chooses images and objects, and looks whether the files are there.

    Args:
      annotations: of the images.
      folder: of the image files.
      split: gives each category its class.
      classes: category ids whose objects are labelled; default all of the split. Objects of others stay in the images
        unlabelled.
      keep_empty: keep images without a labelled object: for testing.
      max_objects: of an image; default any.

    Raises:
      UserError: naming the file and the id: a missing image file, an image with more than `max_objects`.
    """
    # Only what examples need: worker processes get a copy, and the annotations of COCO fill gigabytes.
    self._file, self._folder = annotations.file, os.fspath(folder)
    index = split.index
    kept = {category: index[category] for category in (classes or split.names)}
    self._images, self._outlines, self._labels = [], [], []
    self.ids = []
    for key, entries in annotations.by_image.items():
      chosen = [entry for entry in entries if entry['category_id'] in kept and not entry['iscrowd']]
      if max_objects is not None and len(chosen) > max_objects:
        raise UserError(
          f'{annotations.file}: image {key} ({annotations.images[key]["file_name"]}) has {len(chosen)} objects: set '
          f'config.data.max_objects to at least that, not {max_objects}.'
        )
      if chosen or keep_empty:
        self.ids.append(key)
        self._images.append({name: annotations.images[key][name] for name in ('file_name', 'height', 'width')})
        self._outlines.append([_packed(entry['segmentation']) for entry in chosen])
        self._labels.append(np.asarray([kept[entry['category_id']] for entry in chosen], np.int32))
    self._check_files()
    counts = [len(labels) for labels in self._labels]
    self.objects = Objects(
      np.repeat(np.arange(len(counts)), counts),
      np.concatenate([np.arange(n) for n in counts] or [np.zeros(0, int)]),
      np.concatenate(self._labels or [np.zeros(0, np.int32)]),
    )

  def __len__(self) -> int:
    """Number of images."""
    return len(self.ids)

  def __getitem__(self, index: int) -> Example:
    """See the class."""
    key, entry = self.ids[index], self._images[index]
    image = read_image(os.path.join(self._folder, entry['file_name']))
    if image.shape[:2] != (entry['height'], entry['width']):
      raise UserError(
        f'{entry["file_name"]} (image {key}) is {image.shape[1]}x{image.shape[0]}, not '
        f'{entry["width"]}x{entry["height"]} as {self._file} says.'
      )
    return {
      'image': image,
      'segmentations': self._outlines[index],
      'labels': self._labels[index],
      'id': key,
      'name': f'{entry["file_name"]} (image {key})',
    }

  def _check_files(self):
    if not os.path.isdir(self._folder):
      raise UserError(f'No folder {self._folder}: name the folder of the images that {self._file} lists.')
    present: dict[str, set[str]] = {}
    for key, image in zip(self.ids, self._images, strict=True):
      folder, name = os.path.split(image['file_name'])
      if folder not in present:
        path = os.path.join(self._folder, folder)
        present[folder] = set(os.listdir(path)) if os.path.isdir(path) else set()
      if name not in present[folder]:
        path = os.path.join(self._folder, folder, name)
        raise UserError(f'{path} (image {key} of {self._file}) is missing.')


def _packed(segmentation):
  return [np.asarray(x, np.float64) for x in segmentation] if isinstance(segmentation, list) else segmentation


def evaluation_transform(
  long_side: int = 1333, short_side: int = 800, canvas: tuple[int, int] = (1344, 1344)
) -> Callable[[Example], dict[str, np.ndarray]]:
  """Example -> what a test step takes; all examples have one shape.

  Returns:
    a function to 'image' uint8 [*canvas, 3] (zeros at the bottom and right), 'image_size' [2] (height, width of the
    part that the image covers), 'size' [2] of the original, 'id' int64. Padding belongs AFTER normalisation: set pixels
    beyond 'image_size' to zero then.
  """

  def transform(example: Example) -> dict[str, np.ndarray]:
    image, covered = fit(example['image'], long_side, short_side, canvas)
    return {
      'image': image,
      'image_size': covered,
      'size': np.asarray(example['image'].shape[:2], np.int32),
      'id': np.asarray(example['id'], np.int64),
    }

  return transform


class SupportSet(NamedTuple):
  """Support examples: an image with one object each.

  Attributes:
    images: [examples, size, size, 3] uint8, zeros beside the image.
    masks: [examples, size, size] bool; never empty.
    classes: [examples] int32; -1 is padding.
    covered: [examples, 2] int32, (height, width) of the part that the image covers.
  """

  images: np.ndarray
  masks: np.ndarray
  classes: np.ndarray
  covered: np.ndarray


def support_set(source: OutlinedImages, k: int, classes: Sequence[int], size: int) -> SupportSet:
  """The first K objects of each class, resized to fit in size x size: what is encoded once for testing.

  Args:
    source: of a K-shot set.
    k: examples of a class; fewer leave padding, so that the shapes depend on k and classes only.
    classes: classes (not category ids).
    size: of the canvas.
  """
  count = k * len(classes)
  found = SupportSet(
    np.zeros((count, size, size, 3), np.uint8),
    np.zeros((count, size, size), bool),
    np.full(count, -1, np.int32),
    np.full((count, 2), size, np.int32),
  )
  for c, label in enumerate(classes):
    for j, row in enumerate(np.flatnonzero(source.objects.label == label)[:k]):
      example = source[int(source.objects.image[row])]
      placement = fit_placement(example['image'].shape[:2], size)
      at = c * k + j
      found.images[at] = place_image(example['image'], placement, 0)
      found.masks[at] = mark(example['segmentations'][source.objects.slot[row]], placement)
      found.classes[at] = label
      found.covered[at] = placement.covered
  return found


def fit_placement(source: tuple[int, int], size: int) -> Placement:
  """The whole image, as large as fits in size x size."""
  return Placement(source, False, fitted_size(*source, size, size), (0, 0), (size, size))


def mark(segmentation: Any, placement: Placement) -> np.ndarray:
  """The placed mask; where the object became smaller than a pixel, the pixel at its middle. For whole images."""
  mask = place_mask(segmentation, placement)
  if not mask.any():
    original = place_mask(segmentation, placement._replace(resized=placement.source, canvas=placement.source))
    middle = np.argwhere(original).mean(axis=0) + 0.5
    at = [int(m * r / s) for m, r, s in zip(middle, placement.resized, placement.source, strict=True)]
    mask[tuple(at)] = True
  return mask
