"""COCO average precision of boxes and masks, by pycocotools. On the host.

truth = coco_ap.truth([{'boxes': ..., 'labels': ..., 'size': (480, 640)}, ...], classes)
found = coco_ap.detections([{'boxes': ..., 'labels': ..., 'scores': ...}, ...])
coco_ap.evaluate(truth, found).metrics['AP']
"""

import contextlib
import dataclasses
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_ops
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jaxpapers.ops.boxes import xyxy_to_xywh

_NAMES = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'AR1', 'AR10', 'AR100', 'ARs', 'ARm', 'ARl')


@dataclasses.dataclass(frozen=True)
class AveragePrecision:
  """What COCO's evaluation says.

  Attributes:
    metrics: AP (mean over IoU 0.50:0.05:0.95), AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl, in [0, 1];
      NaN where no ground truth is of that kind.
    classes: category ids, ascending.
    per_class: [classes] AP; NaN for classes without ground truth.
    per_class_50: [classes] AP at IoU 0.5.
    thresholds: [10] IoU.
    recall: [101].
    precision: [10, 101, classes] at each IoU threshold and recall; NaN for classes without ground truth.
  """

  metrics: Mapping[str, float]
  classes: np.ndarray
  per_class: np.ndarray
  per_class_50: np.ndarray
  thresholds: np.ndarray
  recall: np.ndarray
  precision: np.ndarray


def truth(images: Sequence[Mapping[str, Any]], classes: int | Sequence[str]) -> dict[str, Any]:
  """COCO's instances JSON of ground truth held in arrays; image i has id i.

  Args:
    images: for each image `labels` [n] int, `size` (height, width), and `boxes` [n, 4] (x1, y1, x2, y2) or `masks`
      [n, height, width] bool or both; optionally `crowd` [n] bool and `area` [n] (default: of the mask, else of the
      box).
    classes: their number, or their names; category id k is class k.

  Raises:
    ValueError: on a label outside the classes.
  """
  names = [str(k) for k in range(classes)] if isinstance(classes, int) else list(classes)
  annotations = []
  for i, image in enumerate(images):
    for j, label in enumerate(np.asarray(image['labels']).tolist()):
      if not 0 <= label < len(names):
        raise ValueError(f'Image {i}, object {j}: class {label} is not one of 0..{len(names) - 1}.')
      entry = {'id': len(annotations) + 1, 'image_id': i, 'category_id': label}
      entry['iscrowd'] = int(image['crowd'][j]) if 'crowd' in image else 0
      if 'masks' in image:
        entry['segmentation'] = encode_mask(image['masks'][j])
        entry['area'] = float(mask_ops.area(entry['segmentation']))
        entry['bbox'] = mask_ops.toBbox(entry['segmentation']).tolist()
      if 'boxes' in image:
        entry['bbox'] = xyxy_to_xywh(np.asarray(image['boxes'][j], np.float64)).tolist()
        entry.setdefault('area', entry['bbox'][2] * entry['bbox'][3])
      if 'area' in image:
        entry['area'] = float(image['area'][j])
      annotations.append(entry)
  return {
    'images': [{'id': i, 'height': int(x['size'][0]), 'width': int(x['size'][1])} for i, x in enumerate(images)],
    'categories': [{'id': k, 'name': name} for k, name in enumerate(names)],
    'annotations': annotations,
  }


def detections(
  images: Sequence[Mapping[str, Any]], image_ids: Sequence[int] | None = None, category_ids: Sequence[int] | None = None
) -> list[dict[str, Any]]:
  """COCO's result list of detections held in arrays.

  Args:
    images: for each image `scores` [n], `labels` [n], `boxes` [n, 4] (x1, y1, x2, y2) or `masks` [n, height, width] or
      both, and optionally `valid` [n] bool.
    image_ids: of each image; default 0, 1, ...
    category_ids: of each class; default 0, 1, ...
  """
  results = []
  for i, image in enumerate(images):
    count = len(image['scores'])
    for j in np.flatnonzero(image['valid']) if 'valid' in image else range(count):
      label = int(image['labels'][j])
      entry = {
        'image_id': i if image_ids is None else image_ids[i],
        'category_id': label if category_ids is None else category_ids[label],
        'score': float(image['scores'][j]),
      }
      if 'boxes' in image:
        entry['bbox'] = xyxy_to_xywh(np.asarray(image['boxes'][j], np.float64)).tolist()
      if 'masks' in image:
        entry['segmentation'] = encode_mask(image['masks'][j])
      results.append(entry)
  return results


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
  """Run lengths of a [height, width] mask, as COCO writes them."""
  return mask_ops.encode(np.asfortranarray(mask, dtype=np.uint8))


def evaluate(
  ground_truth: Mapping[str, Any] | str,
  results: Sequence[Mapping[str, Any]] | str,
  *,
  kind: str = 'bbox',
  image_ids: Sequence[int] | None = None,
  category_ids: Sequence[int] | None = None,
) -> AveragePrecision:
  """Average precision of detections.

  Args:
    ground_truth: instances JSON, as a mapping or the path of a file.
    results: COCO result list, or the path of a file. An empty list gives AP 0 where there is ground truth. If no
      result has a box, boxes are the masks' tight ones.
    kind: 'bbox' or 'segm'.
    image_ids: evaluate on these only; default all of the ground truth.
    category_ids: evaluate on these only; default all of the ground truth.

  Raises:
    ValueError: if a result names an image or category that the ground truth does not have, or lacks what `kind` needs.
  """
  if kind not in ('bbox', 'segm'):
    raise ValueError(f"kind is 'bbox' or 'segm', not {kind!r}.")
  reference = _index(_load(ground_truth))
  listed = _load(results)
  # Without any box pycocotools takes boxes and areas of the masks.
  masks_only = bool(listed) and all('segmentation' in r and 'bbox' not in r for r in listed)
  field = 'bbox' if kind == 'bbox' and not masks_only else 'segmentation'
  for number, result in enumerate(listed):
    _check(number, result, field, reference)
  with contextlib.redirect_stdout(io.StringIO()):
    if listed:
      # loadRes chooses what to evaluate by the first entry, and writes into the entries.
      found = reference.loadRes([{key: r[key] for key in ('image_id', 'category_id', 'score', field)} for r in listed])
    else:
      found = _index({**reference.dataset, 'annotations': []})
    evaluator = COCOeval(reference, found, kind)
    if image_ids is not None:
      evaluator.params.imgIds = sorted(image_ids)
    if category_ids is not None:
      evaluator.params.catIds = sorted(category_ids)
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
  # [threshold, recall, class] at all areas and 100 detections; -1 where a class has no ground truth.
  precision = _absent_to_nan(evaluator.eval['precision'][:, :, :, 0, -1])
  return AveragePrecision(
    metrics={
      name: math.nan if value < 0 else float(value) for name, value in zip(_NAMES, evaluator.stats, strict=True)
    },
    classes=np.asarray(evaluator.params.catIds),
    per_class=precision.mean(axis=(0, 1)),
    per_class_50=precision[0].mean(axis=0),
    thresholds=evaluator.params.iouThrs,
    recall=evaluator.params.recThrs,
    precision=precision,
  )


def _load(source):
  if isinstance(source, str):
    with open(source) as file:
      return json.load(file)
  return source


def _index(dataset: Mapping[str, Any]) -> COCO:
  coco = COCO()
  # Annotations are copied: pycocotools adds fields to them.
  coco.dataset = {**dataset, 'annotations': [dict(entry) for entry in dataset['annotations']]}
  with contextlib.redirect_stdout(io.StringIO()):
    coco.createIndex()
  return coco


def _check(number, result, field, reference):
  for name in ('image_id', 'category_id', 'score', field):
    if name not in result:
      raise ValueError(f'Result {number} has no {name!r}.')
  if result['image_id'] not in reference.imgs:
    raise ValueError(f'Result {number} names image {result["image_id"]}, which the ground truth does not have.')
  if result['category_id'] not in reference.cats:
    raise ValueError(f'Result {number} names category {result["category_id"]}, which the ground truth does not have.')


def _absent_to_nan(values):
  return np.where(values < 0, np.nan, values)
