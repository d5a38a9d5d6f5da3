"""Mask and box AP over all, base and novel classes from one list of predictions. On the host."""

import dataclasses
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import numpy as np
from pycocotools import mask as mask_ops

from jaxpapers.ops import coco_ap

KINDS = ('segm', 'bbox')
_THRESHOLDS = {'AP': slice(None), 'AP50': slice(0, 1), 'AP75': slice(5, 6)}
_SIZES = ('APs', 'APm', 'APl')


@dataclasses.dataclass(frozen=True)
class FewShotPrecision:
  """Average precision, in [0, 1].

  Attributes:
    metrics: 'segm/AP', 'segm/AP50', 'segm/AP75', 'segm/APs' (m, l: by size), 'segm/nAP', 'segm/nAP50', 'segm/nAP75'
      (novel classes), 'segm/bAP', ... (base classes), 'segm/hAP' (harmonic mean of nAP and bAP); the same under
      'bbox/'. A metric whose classes or sizes have no ground truth is left out.
    per_class: kind -> category id -> AP, for the classes that have ground truth.
    found: kind -> all that COCO's evaluation says.
  """

  metrics: Mapping[str, float]
  per_class: Mapping[str, Mapping[int, float]]
  found: Mapping[str, coco_ap.AveragePrecision]


def few_shot_precision(
  truth: Mapping[str, Any] | str,
  results: Sequence[Mapping[str, Any]],
  base: Iterable[int],
  novel: Iterable[int],
  *,
  kinds: Sequence[str] = KINDS,
  image_ids: Sequence[int] | None = None,
) -> FewShotPrecision:
  """AP, nAP and bAP of one list of predictions.

  COCO's evaluation treats each class by itself, so that the mean over the novel classes is what an evaluation of
  ground truth and predictions of these classes alone gives.

  Source: the few-shot protocol of the paper's tables, scored by pycocotools.

  Args:
    truth: COCO instances JSON, see `coco_ap.truth`; or the path of a file.
    results: COCO result list with masks, boxes or both, see `result_list`. If no result has a box, boxes are the
      masks' tight ones. An empty list gives 0 and a warning.
    base: category ids of the base classes; may be empty.
    novel: category ids of the novel classes; may be empty. AP is over the classes of both, whatever else is listed.
    kinds: of 'segm' and 'bbox'.
    image_ids: evaluate on these only; default all of the ground truth.

  Raises:
    ValueError: if base and novel overlap, or a result does not fit the ground truth.
  """
  base, novel = sorted(set(base)), sorted(set(novel))
  if both := sorted(set(base) & set(novel)):
    raise ValueError(f'Category {both[0]} is both base and novel.')
  metrics, per_class, found = {}, {}, {}
  for kind in kinds:
    result = coco_ap.evaluate(truth, results, kind=kind, image_ids=image_ids, category_ids=base + novel)
    found[kind] = result
    known = ~np.isnan(result.per_class)
    per_class[kind] = {int(c): float(ap) for c, ap in zip(result.classes[known], result.per_class[known], strict=True)}
    numbers = {name: result.metrics[name] for name in _SIZES if not math.isnan(result.metrics[name])}
    for prefix, ids in (('', base + novel), ('n', novel), ('b', base)):
      chosen = known & np.isin(result.classes, ids)
      if chosen.any():
        for name, at in _THRESHOLDS.items():
          numbers[prefix + name] = float(result.precision[at][:, :, chosen].mean())
    if 'nAP' in numbers and 'bAP' in numbers:
      numbers['hAP'] = harmonic_mean(numbers['nAP'], numbers['bAP'])
    metrics.update({f'{kind}/{name}': value for name, value in numbers.items()})
  if not len(results) and metrics:
    warnings.warn('There is no prediction at all: every AP is 0.', stacklevel=2)
  return FewShotPrecision(metrics, per_class, found)


def harmonic_mean(a: float, b: float) -> float:
  """2 a b / (a + b); 0 where both are 0. Source: generalised few-shot tables."""
  return 2 * a * b / (a + b) if a + b > 0 else 0.0


class Interval(NamedTuple):
  """Mean over K-shot seeds and its 95% interval, mean - half_width to mean + half_width.

  Attributes:
    mean: over the seeds.
    half_width: 1.96 sd / sqrt(n), sd with n - 1; NaN for a single seed.
    count: n.
  """

  mean: float
  half_width: float
  count: int


def interval(values: Sequence[float]) -> Interval:
  """Mean and 95% interval of one number over the seeds. Source: the few-shot benchmark's tables over seeds (TFA).

  Raises:
    ValueError: without any value.
  """
  values = np.asarray(values, np.float64)
  if values.ndim != 1 or not len(values):
    raise ValueError(f'An interval needs a list of at least one number, not shape {values.shape}.')
  count = len(values)
  half_width = 1.96 * values.std(ddof=1) / math.sqrt(count) if count > 1 else math.nan
  return Interval(float(values.mean()), float(half_width), count)


def over_seeds(per_seed: Sequence[Mapping[str, float]]) -> dict[str, Interval]:
  """Interval of every metric that all seeds have.

  Args:
    per_seed: `FewShotPrecision.metrics` of each K-shot seed.
  """
  names = [name for name in per_seed[0] if all(name in metrics for metrics in per_seed)]
  return {name: interval([metrics[name] for metrics in per_seed]) for name in names}


def ground_truth(masks: np.ndarray, classes: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
  """COCO instances JSON of padded arrays: image i has id i, class k has category id k.

  Args:
    masks: [images, objects, height, width] bool.
    classes: [images, objects] int; negative ones are padding.
    names: of the classes.
  """
  chex.assert_rank([masks, classes], [4, 2])
  chex.assert_equal_shape_prefix([masks, classes], 2)
  return coco_ap.truth(
    [
      {'masks': mask[label >= 0], 'labels': label[label >= 0], 'size': masks.shape[2:]}
      for mask, label in zip(masks, classes, strict=True)
    ],
    names,
  )


def result_list(
  scores: np.ndarray,
  classes: np.ndarray,
  masks: np.ndarray,
  image_ids: Sequence[int] | None = None,
  category_ids: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
  """COCO result list of predictions for images of one size; boxes are the masks' tight ones.

  Args:
    scores: [images, predictions].
    classes: [images, predictions] int; negative ones are left out.
    masks: [images, predictions, height, width] bool.
    image_ids: of each image; default 0, 1, ...
    category_ids: of each class; default 0, 1, ...
  """
  chex.assert_rank([scores, classes, masks], [2, 2, 4])
  chex.assert_equal_shape_prefix([scores, classes, masks], 2)
  scores, classes, masks = (np.asarray(x) for x in (scores, classes, masks))
  results = []
  for i in range(len(scores)):
    # pycocotools wants [height, width, n] in Fortran order: a transposed view of [n, width, height].
    columns = np.ascontiguousarray(masks[i].swapaxes(1, 2), np.uint8)
    encoded = mask_ops.encode(columns.T)
    for score, label, mask in zip(scores[i].tolist(), classes[i].tolist(), encoded, strict=True):
      if label >= 0:
        category = label if category_ids is None else category_ids[label]
        image = i if image_ids is None else image_ids[i]
        results.append({'image_id': image, 'category_id': category, 'score': score, 'segmentation': mask})
  return results
