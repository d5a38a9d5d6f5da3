"""COCO's average precision by pycocotools, from scores and IoU, where all classes share the mask of a query.

Masks stay on the device, which overlaps each query's with the objects once instead of once for every class.
"""

import contextlib
import io

import chex
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def average_precision(scores: np.ndarray, ious: np.ndarray, classes: np.ndarray) -> np.ndarray:
  """AP of every class, [classes] float64: the mean over the ten thresholds; NaN for a class without object.

  Source: COCO's evaluation.

  Args:
    scores: [images, queries, classes]; every query is a prediction of every class.
    ious: [images, queries, objects] of the queries' masks with the objects.
    classes: [images, objects] int; negative ones are padding.
  """
  chex.assert_rank([scores, ious, classes], [3, 3, 2])
  chex.assert_equal_shape_prefix([scores, ious], 2)
  images, queries, known = scores.shape
  truth = [
    {'image_id': i, 'category_id': int(classes[i, j]), 'place': j}
    for i, j in zip(*np.nonzero(classes >= 0), strict=True)
  ]
  # Only of classes with objects: the others have no precision, whatever is predicted.
  wanted = sorted({entry['category_id'] for entry in truth})
  found = [
    {'image_id': i, 'category_id': c, 'place': q, 'score': float(scores[i, q, c])}
    for i in range(images)
    for c in wanted
    for q in range(queries)
  ]
  evaluator = _GivenOverlaps(_coco(truth, images, known), _coco(found, images, known), ious)
  evaluator.params.catIds = wanted
  evaluator.params.areaRng, evaluator.params.areaRngLbl = evaluator.params.areaRng[:1], ['all']
  evaluator.params.maxDets = [max(100, queries)]
  with contextlib.redirect_stdout(io.StringIO()):
    evaluator.evaluate()
    evaluator.accumulate()
  result = np.full(known, np.nan)
  result[wanted] = evaluator.eval['precision'][..., 0, 0].mean(axis=(0, 1))
  return result


class _GivenOverlaps(COCOeval):
  """pycocotools' evaluation of masks whose overlaps are known."""

  def __init__(self, truth: COCO, found: COCO, ious: np.ndarray):
    """`ious` [images, queries, objects]; the entries' `place` is the query or the object."""
    super().__init__(truth, found, 'bbox')
    self._overlaps = np.asarray(ious, np.float64)

  def computeIoU(self, imgId: int, catId: int) -> np.ndarray | list:
    """[predictions by falling score, objects]."""
    truth, found = self._gts[imgId, catId], self._dts[imgId, catId]
    if not truth or not found:
      return []
    order = np.argsort([-entry['score'] for entry in found], kind='mergesort')[: self.params.maxDets[-1]]
    rows = [found[k]['place'] for k in order]
    return self._overlaps[imgId][np.ix_(rows, [entry['place'] for entry in truth])]


def _coco(entries, images, known):
  coco = COCO()
  coco.dataset = {
    'images': [{'id': i} for i in range(images)],
    'categories': [{'id': c} for c in range(known)],
    'annotations': [{**entry, 'id': k, 'area': 1.0, 'iscrowd': 0} for k, entry in enumerate(entries, 1)],
  }
  with contextlib.redirect_stdout(io.StringIO()):
    coco.createIndex()
  return coco
