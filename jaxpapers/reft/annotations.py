"""COCO instances JSON: read and checked entry by entry."""

import dataclasses
import functools
import gzip
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from pycocotools import mask as mask_ops

from jaxpapers.engine.errors import UserError
from jaxpapers.reft import segmentations

Entry = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Annotations:
  """Outlined objects of a set of images; their masks are known to be well-formed and not empty.

  Attributes:
    file: where they come from, for messages.
    images: id -> {'id', 'file_name', 'height', 'width', ...}.
    categories: id -> {'id', 'name', ...}, by ascending id.
    entries: annotations in the order of the file, each with 'id', 'image_id', 'category_id', 'iscrowd',
      'segmentation', 'area', 'bbox'.
    skipped: how many annotations were left out, by reason.
  """

  file: str
  images: Mapping[int, Entry]
  categories: Mapping[int, Entry]
  entries: Sequence[Entry]
  skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)

  @functools.cached_property
  def names(self) -> dict[int, str]:
    """Category id -> name, by ascending id."""
    return {key: entry.get('name', str(key)) for key, entry in self.categories.items()}

  @functools.cached_property
  def by_image(self) -> dict[int, list[Entry]]:
    """Image id -> its annotations, crowds included; images in the order of the file."""
    found: dict[int, list[Entry]] = {key: [] for key in self.images}
    for entry in self.entries:
      found[entry['image_id']].append(entry)
    return found

  def as_json(self) -> dict[str, Any]:
    """As COCO writes it: also the ground truth that `few_shot_precision` takes."""
    return {
      'images': list(self.images.values()),
      'categories': list(self.categories.values()),
      'annotations': list(self.entries),
    }


def read_annotations(path: str | os.PathLike, *, bad: str = 'error') -> Annotations:
  """Reads an instances JSON, plain or gzip (.gz), and checks every entry; every mask is rasterised once.

  Args:
    path: of the file. LVIS files name their images by `coco_url`: file_name is then its last two parts.
    bad: what to do about a malformed or empty mask: 'error', or 'skip': leave the annotation out and count it.

  Raises:
    UserError: naming the file and the id: no such file, no COCO JSON, an id twice, a field missing, an annotation of a
      missing image or category, a malformed or empty mask.
  """
  if bad not in ('error', 'skip'):
    raise UserError(f"bad is 'error' or 'skip', not {bad!r}.")
  file = os.fspath(path)
  content = _read(file)
  images = _by_id(file, 'image', content['images'], ('height', 'width'))
  images = {key: _with_file_name(file, entry) for key, entry in images.items()}
  categories = dict(sorted(_by_id(file, 'category', content['categories'], ()).items()))
  entries, skipped = [], {}
  for entry in _by_id(file, 'annotation', content['annotations'], ('image_id', 'category_id')).values():
    checked = _checked(file, entry, images, categories)
    if not isinstance(checked, str):
      entries.append(checked)
    elif bad == 'error':
      image = images[entry['image_id']]
      where = f'image {image["id"]} ({image["file_name"]})'
      raise UserError(
        f'{file}: annotation {entry["id"]} of {where} {checked}. Correct it, or set bad_annotations=skip to leave '
        'such out.'
      )
    else:
      reason = checked.split(':')[0]
      skipped[reason] = skipped.get(reason, 0) + 1
  return Annotations(file, images, categories, entries, skipped)


def merge_annotations(parts: Sequence[Annotations], name: str) -> Annotations:
  """Several files as one set; an image of several files appears once, as does an annotation.

  Args:
    parts: of one list of categories.
    name: of the set, for messages.

  Raises:
    UserError: if category lists differ, two files give one image different sizes, or one id to different annotations.
  """
  images: dict[int, Entry] = {}
  entries: dict[int, Entry] = {}
  skipped: dict[str, int] = {}
  for part in parts:
    check_same_categories(parts[0], part)
    for key, image in part.images.items():
      known = images.setdefault(key, image)
      if (known['height'], known['width']) != (image['height'], image['width']):
        raise UserError(
          f'{part.file}: image {key} is {image["width"]}x{image["height"]}, but {known["width"]}x{known["height"]} in '
          f'another file of {name}.'
        )
    for entry in part.entries:
      if entries.setdefault(entry['id'], entry) != entry:
        raise UserError(f'{part.file}: annotation {entry["id"]} is another one than in another file of {name}.')
    for reason, count in part.skipped.items():
      skipped[reason] = skipped.get(reason, 0) + count
  return Annotations(name, images, parts[0].categories, list(entries.values()), skipped)


def check_same_categories(a: Annotations, b: Annotations) -> None:
  """Support and query sets must speak of the same classes.

  Raises:
    UserError: naming the files and the first category that differs.
  """
  for key in sorted(set(a.names) | set(b.names)):
    names = [x.names.get(key) for x in (a, b)]
    if names[0] != names[1]:
      told = [
        f'{x.file} {"has no such" if name is None else f"calls it {name!r}"}'
        for x, name in zip((a, b), names, strict=True)
      ]
      raise UserError(
        f'Category {key} differs: {told[0]}, {told[1]}. Support and query files need one list of classes.'
      )


def _read(path):
  try:
    with gzip.open(path, 'rt') if path.endswith('.gz') else open(path) as file:
      content = json.load(file)
  except FileNotFoundError:
    raise UserError(f'No file {path}: name an instances JSON, such as annotations/instances_val2017.json.') from None
  except (json.JSONDecodeError, UnicodeDecodeError, EOFError, zlib.error, OSError) as error:
    raise UserError(f'{path} is no complete JSON file: {error}.') from None
  for name in ('images', 'annotations', 'categories'):
    if not isinstance(content, Mapping) or not isinstance(content.get(name), list):
      raise UserError(f'{path} has no list {name!r}: it is no COCO instances file.')
  return content


def _by_id(file, kind, entries, needed):
  found = {}
  for number, entry in enumerate(entries):
    if not isinstance(entry, Mapping) or 'id' not in entry:
      raise UserError(f"{file}: {kind} number {number} of the list has no 'id'.")
    missing = [name for name in needed if name not in entry]
    if missing:
      raise UserError(f'{file}: {kind} {entry["id"]} has no {missing[0]!r}.')
    if entry['id'] in found:
      raise UserError(f'{file}: {kind} id {entry["id"]} appears twice.')
    found[entry['id']] = entry
  return found


def _with_file_name(file, image):
  if not all(isinstance(image[side], int) and image[side] > 0 for side in ('height', 'width')):
    raise UserError(
      f'{file}: image {image["id"]} has size {image["width"]}x{image["height"]}: sides are whole numbers above 0.'
    )
  if 'file_name' in image:
    return image
  if 'coco_url' in image:
    return {**image, 'file_name': '/'.join(image['coco_url'].split('/')[-2:])}
  raise UserError(f"{file}: image {image['id']} has no 'file_name'.")


def _checked(file, entry, images, categories):
  """The entry with what it lacks, or what is wrong with it."""
  image = images.get(entry['image_id'])
  if image is None:
    raise UserError(
      f'{file}: annotation {entry["id"]} names image {entry["image_id"]}, which the file does not list under images.'
    )
  if entry['category_id'] not in categories:
    raise UserError(
      f'{file}: annotation {entry["id"]} is of category {entry["category_id"]}, which the file does not list under '
      'categories.'
    )
  size = image['height'], image['width']
  wrong = segmentations.problem(entry.get('segmentation'), *size)
  if wrong is not None:
    return wrong
  encoded = segmentations.encode(entry['segmentation'], *size)
  area = float(mask_ops.area(encoded))
  if area == 0:
    return 'has an empty mask'
  if all(name in entry for name in ('area', 'bbox', 'iscrowd')):
    return entry
  return {'area': area, 'bbox': mask_ops.toBbox(encoded).tolist(), 'iscrowd': 0, **entry}
