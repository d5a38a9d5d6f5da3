"""COCO's average precision where every query's mask is shared by all classes: from scores and IoU alone.

Equal to COCO's evaluation without crowds, size limits, and with at most 100 predictions of a class in an image; all
images of a set at once.
"""

import chex
import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)


def average_precision(scores: np.ndarray, ious: np.ndarray, classes: np.ndarray) -> np.ndarray:
  """AP of every class, [classes] float64: the mean over the ten thresholds; NaN for a class without object.

  Args:
    scores: [images, queries, classes].
    ious: [images, queries, objects] of the queries' masks with the objects.
    classes: [images, objects] int; negative ones are padding.
  """
  chex.assert_rank([scores, ious, classes], [3, 3, 2])
  chex.assert_equal_shape_prefix([scores, ious], 2)
  return np.asarray([_one_class(scores[..., c], ious, classes == c) for c in range(scores.shape[-1])])


def _one_class(scores, ious, mine):
  total = np.count_nonzero(mine)
  if not total:
    return np.nan
  order = np.argsort(-scores, axis=1, kind='mergesort')
  ranked = np.take_along_axis(scores, order, axis=1)
  ious = np.take_along_axis(ious, order[..., None], axis=1)
  images, queries, _ = ious.shape
  free = np.repeat(mine[:, None], len(THRESHOLDS), axis=1)  # [images, thresholds, objects]
  hit = np.zeros((images, queries, len(THRESHOLDS)), bool)
  at = np.minimum(THRESHOLDS, 1 - 1e-10)
  rows = np.arange(images)[:, None], np.arange(len(THRESHOLDS))[None]
  for query in range(queries):
    here = np.where(free, ious[:, query, None], -1.0)
    # Among equal overlaps COCO's loop keeps the last.
    best = here.shape[-1] - 1 - np.argmax(here[..., ::-1], axis=-1)
    matched = np.take_along_axis(here, best[..., None], axis=-1)[..., 0] >= at
    hit[:, query] = matched
    free[(*rows, best)] &= ~matched
  return np.mean(_precision(ranked.reshape(-1), hit.reshape(-1, len(THRESHOLDS)), total))


def _precision(scores, hit, total):
  """[thresholds] mean precision over the 101 recalls."""
  hit = hit[np.argsort(-scores, kind='mergesort')]
  true = np.cumsum(hit, axis=0, dtype=np.float64)
  recall = true / total
  precision = true / np.arange(1, len(true) + 1)[:, None]
  precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
  result = []
  for column in range(hit.shape[1]):
    index = np.searchsorted(recall[:, column], RECALLS, side='left')
    result.append(np.where(index < len(true), precision[np.minimum(index, len(true) - 1), column], 0.0).mean())
  return np.asarray(result)
