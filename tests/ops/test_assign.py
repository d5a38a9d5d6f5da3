import jax
import numpy as np
import pytest

from jaxpapers.ops.assign import IGNORED, NEGATIVE, max_iou_assign
from tests.ops.test_boxes import iou_reference, random_boxes


def reference(anchors, truth, positive, negative, low_quality, all_ties):
  """The rule, one anchor and one ground truth at a time."""
  index = np.full(len(anchors), IGNORED)
  iou = iou_reference(truth, anchors)
  for a in range(len(anchors)):
    best = iou[:, a].max() if len(truth) else -1
    if best < negative:
      index[a] = NEGATIVE
    if len(truth) and best >= positive:
      index[a] = int(np.argmax(iou[:, a]))
  if low_quality is not None:
    for g in range(len(truth)):
      if iou[g].max() >= low_quality:
        for a in np.flatnonzero(iou[g] == iou[g].max())[: None if all_ties else 1]:
          index[a] = g
  return index


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('all_ties', [False, True])
def test_equals_reference_whatever_the_padding(seed, all_ties):
  rng = np.random.default_rng(seed)
  # Whole numbers make ties frequent, and exact in float32.
  anchors, truth = (np.round(random_boxes(rng, n, 20, smallest=3)) for n in (200, 5))
  anchors[30:40] = anchors[:10]
  options = dict(positive=0.5, negative=0.4, low_quality=0.0, all_ties=all_ties)
  want = reference(anchors, truth, **options)
  padded = np.concatenate([truth[:3], anchors[:2], truth[3:]])  # padding that would match well
  valid = np.array([1, 1, 1, 0, 0, 1, 1], bool)
  assign = jax.jit(lambda *args: max_iou_assign(*args, **options))
  index, iou = assign(anchors, padded, valid)
  places = np.array([0, 1, 2, 5, 6])
  np.testing.assert_array_equal(index, np.where(want >= 0, places[want], want))
  np.testing.assert_allclose(iou, iou_reference(truth, anchors).max(axis=0), atol=1e-6)
  assert IGNORED in want


def test_a_later_ground_truth_takes_the_anchor_of_an_earlier_one():
  anchors = np.array([[0, 0, 10, 10]], np.float32)
  truth = np.array([[0, 0, 10, 10], [0, 0, 5, 5]], np.float32)
  index, _ = max_iou_assign(anchors, truth, np.ones(2, bool))
  assert index[0] == 1


def test_a_ground_truth_without_overlap_takes_the_first_valid_anchor():
  anchors = np.array([[0, 0, 1, 1], [2, 2, 3, 3], [4, 4, 5, 5]], np.float32)
  truth = np.array([[50, 50, 60, 60]], np.float32)
  index, _ = max_iou_assign(anchors, truth, np.ones(1, bool), anchor_valid=np.array([False, True, True]))
  np.testing.assert_array_equal(index, [IGNORED, 0, NEGATIVE])
  index, _ = max_iou_assign(anchors, truth, np.ones(1, bool), low_quality=0.1)
  np.testing.assert_array_equal(index, [NEGATIVE] * 3)


@pytest.mark.parametrize('slots', [0, 3])
def test_without_ground_truth_everything_is_negative(slots):
  anchors = random_boxes(np.random.default_rng(0), 7)
  index, iou = max_iou_assign(anchors, np.zeros((slots, 4), np.float32), np.zeros(slots, bool))
  np.testing.assert_array_equal(index, NEGATIVE)
  np.testing.assert_array_equal(iou, 0)


def test_anchors_in_ignore_regions_are_ignored_unless_claimed():
  anchors = np.array([[0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 4, 4]], np.float32)
  truth = np.array([[0, 0, 10, 10]], np.float32)
  index, _ = max_iou_assign(
    anchors,
    truth,
    np.ones(1, bool),
    ignore=np.array([[0, 0, 12, 12], [18, 18, 40, 40]], np.float32),
    ignore_valid=np.array([True, False]),
  )
  np.testing.assert_array_equal(index, [0, NEGATIVE, IGNORED])


def test_thresholds_in_the_wrong_order_are_an_error():
  with pytest.raises(ValueError, match='negative'):
    max_iou_assign(np.zeros((1, 4)), np.zeros((1, 4)), np.ones(1, bool), positive=0.3, negative=0.5)
