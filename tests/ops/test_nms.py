import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpapers.ops.nms import nms, top_pairs
from tests.ops.test_boxes import iou_reference

CANDIDATES, KEPT = 60, 25


def reference(boxes, scores, labels, valid, threshold, limit):
  """Greedy, in float64, on whatever is left; equal scores in order of index."""
  order = [i for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)) if valid[i]]
  iou = iou_reference(boxes, boxes)
  kept = []
  for i in order:
    if len(kept) < limit and all(labels[i] != labels[k] or not iou[k, i] > threshold for k in kept):
      kept.append(i)
  return kept


@functools.cache
def compiled(threshold):
  return jax.jit(functools.partial(nms, threshold=threshold, max_detections=KEPT))


def candidates(rng):
  """Whole-number boxes with repetitions, degenerate ones, scores on a coarse grid: ties everywhere."""
  corner = rng.integers(0, 12, (CANDIDATES, 2))
  boxes = np.concatenate([corner, corner + rng.integers(0, 9, (CANDIDATES, 2))], axis=1).astype(np.float32)
  boxes[CANDIDATES // 2 :: 3] = boxes[: len(boxes[CANDIDATES // 2 :: 3])]
  scores = (rng.integers(1, 9, CANDIDATES) / 8).astype(np.float32)
  return boxes, scores, rng.integers(0, 3, CANDIDATES), rng.random(CANDIDATES) < 0.9


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.3, 0.5]))
def test_equals_reference_on_boxes_with_ties(seed, threshold):
  boxes, scores, labels, valid = candidates(np.random.default_rng(seed))
  kept = reference(boxes, scores, labels, valid, threshold, KEPT)
  found = compiled(threshold)(boxes, scores, labels, valid)
  count = len(kept)
  np.testing.assert_array_equal(found.valid, np.arange(KEPT) < count)
  np.testing.assert_array_equal(found.boxes[:count], boxes[kept])
  np.testing.assert_array_equal(found.scores[:count], scores[kept])
  np.testing.assert_array_equal(found.labels[:count], labels[kept])
  np.testing.assert_array_equal(found.labels[count:], -1)


def test_degenerate_boxes_are_never_suppressed_and_equality_with_the_threshold_keeps():
  boxes = np.array([[5, 5, 5, 5], [5, 5, 5, 5], [0, 0, 2, 1], [0, 0, 1, 1]], np.float32)
  found = nms(
    boxes, np.array([0.9, 0.8, 0.7, 0.6]), np.zeros(4, int), np.ones(4, bool), threshold=0.5, max_detections=6
  )
  np.testing.assert_array_equal(found.valid, [1, 1, 1, 1, 0, 0])  # the last two overlap by exactly 0.5


def test_no_candidates():
  found = nms(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), np.zeros(0, bool), threshold=0.5, max_detections=3)
  assert not found.valid.any()


def test_vmap_equals_one_by_one():
  batch = [candidates(np.random.default_rng(i)) for i in range(3)]
  stacked = [np.stack(part) for part in zip(*batch, strict=True)]
  together = jax.vmap(compiled(0.3))(*stacked)
  for i, one in enumerate(batch):
    jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b), together, compiled(0.3)(*one))


def test_top_pairs():
  scores = np.array([[0.1, 0.9], [0.9, 0.3], [0.0, 0.2]], np.float32)
  value, anchor, label, valid = top_pairs(scores, 0.2, 4)
  np.testing.assert_allclose(value, [0.9, 0.9, 0.3, 0.2])
  np.testing.assert_array_equal(anchor, [0, 1, 1, 2])
  np.testing.assert_array_equal(label, [1, 0, 1, 1])
  np.testing.assert_array_equal(valid, [True, True, True, False])
  assert top_pairs(scores, 0.2, 100)[0].shape == (6,)


@pytest.mark.parametrize('limit', [1, 3])
def test_limit(limit):
  boxes = np.arange(5, dtype=np.float32)[:, None] * 10 + np.array([0, 0, 1, 1], np.float32)
  found = nms(boxes, np.arange(5.0), np.zeros(5, int), np.ones(5, bool), threshold=0.5, max_detections=limit)
  np.testing.assert_array_equal(found.scores, [4, 3, 2][:limit])
