"""COCO evaluation of the room against stored results of pycocotools."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from pycocotools import mask as mask_ops

from jaxpapers.data.coco import decode_mask
from jaxpapers.ops import coco_ap
from tests.golden import Check, UnknownKindError, load


def run(path: Path) -> Iterable[Check]:
  truth = json.loads((path.parent / 'coco_gt.json').read_text())
  found = json.loads((path.parent / 'coco_detections.json').read_text())
  if path.suffix == '.json':
    yield from _results(json.loads(path.read_text()), truth, found)
  elif path.suffix == '.npz':
    yield from _arrays(load(path)[0], truth, found)
  else:
    raise UnknownKindError(f'{path.name} is neither results nor arrays')


def _results(stored: dict, truth: dict, found: list) -> Iterable[Check]:
  groups = {'all': None, 'base': stored['base_ids'], 'novel': stored['novel_ids']}
  for name, want in stored['results'].items():
    kind, which = name.split('/')
    got = coco_ap.evaluate(truth, found, kind=kind, category_ids=groups[which])
    for metric, value in want.items():
      if metric == 'per_class_AP':
        per_class = dict(zip(got.classes.tolist(), got.per_class.tolist(), strict=True))
        for category, number in value.items():
          expected = np.nan if number is None else number
          yield Check(f'{name}/{category}', per_class[int(category)], expected, 1e-9)
      else:
        yield Check(f'{name}/{metric}', got.metrics[metric], np.nan if value < 0 else value, 1e-9)


def _arrays(data: dict, truth: dict, found: list) -> Iterable[Check]:
  sizes = {image['id']: (image['height'], image['width']) for image in truth['images']}
  masks = {a['id']: decode_mask(a['segmentation'], *sizes[a['image_id']]) for a in truth['annotations']}
  for name, want in data.items():
    what, key = name.split('/')
    if what == 'mask':
      yield Check(name, np.packbits(masks[int(key)]), want, 0)
    elif what == 'precision':
      got = coco_ap.evaluate(truth, found, kind=key)
      all_sizes = want[:, :, :, 0, -1]
      yield Check(name, got.precision, np.where(all_sizes < 0, np.nan, all_sizes), 1e-7)
    elif what == 'iou':
      yield Check(name, _ious(truth, found, masks, *(int(k) for k in key.split('_'))), want, 1e-9)
    elif what != 'recall':
      raise UnknownKindError(f'{name} is unknown')


def _ious(truth, found, masks, image, category):
  """Masks' IoU of all detections with all ground truth of one image and category, in the files' order."""
  mine = [d for d in found if (d['image_id'], d['category_id']) == (image, category)]
  theirs = [a for a in truth['annotations'] if (a['image_id'], a['category_id']) == (image, category)]
  encoded = [coco_ap.encode_mask(masks[a['id']]) for a in theirs]
  return mask_ops.iou([d['segmentation'] for d in mine], encoded, [0] * len(theirs))
