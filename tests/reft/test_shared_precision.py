"""AP from scores and IoU against COCO's own evaluation."""

import numpy as np

from jaxpapers.ops import coco_ap
from jaxpapers.reft.inference import mask_ious
from jaxpapers.reft.shared_precision import average_precision

CLASSES, SIDE = 4, 12


def scenes(seed, images=40, queries=5, objects=3):
  """Masks near the objects, so that overlaps are spread over the thresholds; class 3 has no object."""
  rng = np.random.default_rng(seed)
  truth = np.zeros((images, objects, SIDE, SIDE), bool)
  found = np.zeros((images, queries, SIDE, SIDE), bool)
  for image in range(images):
    for i, (y, x) in enumerate(rng.integers(0, 5, (objects, 2))):
      truth[image, i, y : y + 5 + i, x : x + 6] = True
    for q in range(queries):
      y, x = np.argwhere(truth[image, rng.integers(objects)])[0] + rng.integers(0, 2, 2)
      found[image, q, y : y + 6, x : x + rng.integers(5, 8)] = True
  classes = np.where(rng.random((images, objects)) < 0.3, -1, rng.integers(0, 3, (images, objects)))
  # Few different scores: ties must keep their order.
  return rng.integers(1, 20, (images, queries, CLASSES)) / 20.0, found, truth, classes


def test_equals_pycocotools():
  for seed in range(3):
    scores, found, truth, classes = scenes(seed)
    got = average_precision(scores, np.asarray(mask_ious(found, truth), np.float64), classes)
    labelled = [
      {'masks': m[c >= 0], 'labels': c[c >= 0], 'size': (SIDE, SIDE)} for m, c in zip(truth, classes, strict=True)
    ]
    each = [
      {
        'scores': s.reshape(-1),
        'labels': np.tile(np.arange(CLASSES), len(s)),
        'masks': np.repeat(m, CLASSES, axis=0),
      }
      for s, m in zip(scores, found, strict=True)
    ]
    want = coco_ap.evaluate(coco_ap.truth(labelled, CLASSES), coco_ap.detections(each), kind='segm').per_class
    assert np.isnan(got[3]) and np.isnan(want[3])
    np.testing.assert_allclose(got[:3], want[:3], atol=1e-9)


def test_perfect_and_useless_predictions():
  _, _, truth, classes = scenes(0)
  classes = np.where(np.arange(3) == 0, np.abs(classes), -1)
  scores = np.zeros((*classes.shape, CLASSES))
  scores[np.arange(len(classes)), 0, classes[:, 0]] = 0.9
  ious = np.zeros((len(classes), 3, 3))
  ious[:, 0, 0] = 1.0
  present = np.unique(classes[:, 0])
  np.testing.assert_allclose(average_precision(scores, ious, classes)[present], 1.0)
  np.testing.assert_array_equal(average_precision(scores, 0.4 * ious, classes)[present], 0.0)
