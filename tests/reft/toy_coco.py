"""A small set in COCO's format: images of noise with rectangles, given as polygons and as run lengths."""

import json

import numpy as np
from PIL import Image
from pycocotools import mask as mask_ops

from jaxpapers.reft import annotations

SIZE = (40, 60)
NAMES = {3: 'cat', 5: 'dog', 9: 'owl'}


def rectangle(left, top, right, bottom):
  return [[left, top, right, top, right, bottom, left, bottom]]


def run_lengths(left, top, right, bottom, compressed=True):
  mask = np.zeros(SIZE, np.uint8)
  mask[top:bottom, left:right] = 1
  if compressed:
    encoded = mask_ops.encode(np.asfortranarray(mask))
    return {'size': list(SIZE), 'counts': encoded['counts'].decode()}
  column = mask.ravel(order='F')
  edges = np.flatnonzero(np.diff(np.concatenate([[0], column, [1 - column[-1]]])))
  return {'size': list(SIZE), 'counts': np.diff(np.concatenate([[0], edges])).tolist()}


def content(per_image=((3, 5), (3,), (5, 9), (9, 3), (5, 5), ())):
  """One object of each listed category in each image; id of an image is 10 * (its place + 1)."""
  entries = []
  for i, categories in enumerate(per_image):
    for j, category in enumerate(categories):
      box = (5 + 25 * j, 6 + i, 25 + 25 * j, 26 + i)
      outline = rectangle(*box) if (i + j) % 2 else run_lengths(*box, compressed=bool(i % 3))
      entries.append(
        {
          'id': len(entries) + 1,
          'image_id': 10 * (i + 1),
          'category_id': category,
          'iscrowd': 0,
          'area': 400,
          'bbox': [box[0], box[1], 20, 20],
          'segmentation': outline,
        }
      )
  images = [
    {'id': 10 * (i + 1), 'file_name': f'{i}.png', 'height': SIZE[0], 'width': SIZE[1]} for i in range(len(per_image))
  ]
  return {
    'images': images,
    'categories': [{'id': key, 'name': name} for key, name in reversed(NAMES.items())],
    'annotations': entries,
  }


def write(folder, data=None, name='instances.json'):
  """Writes the JSON and the images; its path."""
  data = content() if data is None else data
  for i, entry in enumerate(data['images']):
    noise = np.random.default_rng(i).integers(0, 256, (*SIZE, 3), np.uint8)
    Image.fromarray(noise).save(folder / entry['file_name'])
  (folder / name).write_text(json.dumps(data))
  return folder / name


def read(folder, data=None):
  return annotations.read_annotations(write(folder, data))
