import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.ops import segmentation


def example(seed=0):
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=(2, 5, 4, 3)).astype(np.float32)
  labels = rng.integers(0, 3, (2, 5, 4))
  labels[rng.random(labels.shape) < 0.3] = 255
  return logits, labels


def test_cross_entropy_divides_by_all_pixels():
  logits, labels = example()
  p = np.exp(logits.astype(np.float64))
  p /= p.sum(-1, keepdims=True)
  known = labels != 255
  want = -np.log(p[known, labels[known]]).sum() / labels.size
  value, gradient = jax.value_and_grad(segmentation.pixel_cross_entropy)(logits, labels)
  assert value == pytest.approx(want, rel=1e-5)
  assert not np.asarray(gradient)[~known].any()
  assert np.all(np.abs(np.asarray(gradient)[known]).sum(-1) > 0)


def test_all_ignored_is_zero_with_zero_gradient():
  logits, _ = example()
  value, gradient = jax.value_and_grad(segmentation.pixel_cross_entropy)(logits, np.full((2, 5, 4), 255))
  assert value == 0 and not gradient.any()
  assert segmentation.pixel_accuracy(logits, np.full((2, 5, 4), 255)) == 0


def test_confusion_and_metrics_equal_a_loop():
  rng = np.random.default_rng(1)
  labels, predictions = rng.integers(0, 4, (3, 6, 5)), rng.integers(0, 4, (3, 6, 5))
  labels[labels == 2] = 255  # class 2 is predicted but never true
  predictions[predictions == 3], labels[labels == 3] = 0, 0  # class 3 is absent from both
  counts = np.asarray(jax.jit(lambda p, y: segmentation.confusion(p, y, 4))(predictions, labels))
  want = np.zeros((4, 4), int)
  for y, p in zip(labels.ravel(), predictions.ravel(), strict=True):
    if y != 255:
      want[y, p] += 1
  np.testing.assert_array_equal(counts, want)
  metrics = segmentation.iou_metrics(counts)
  known = labels != 255
  for k in range(3):
    hit = (known & (labels == k) & (predictions == k)).sum()
    union = (known & ((labels == k) | (predictions == k))).sum()
    assert metrics['IoU'][k] == pytest.approx(hit / union)
  assert np.isnan(metrics['IoU'][3]) and np.isnan(metrics['Acc'][2])
  assert metrics['mIoU'] == pytest.approx(np.mean(metrics['IoU'][:3]))
  assert metrics['mAcc'] == pytest.approx(np.mean(metrics['Acc'][:2]))
  assert metrics['aAcc'] == pytest.approx((predictions == labels)[known].mean())


def test_confusion_leaves_out_padding():
  labels, valid = jnp.zeros((2, 3), int), jnp.array([True, False])
  assert segmentation.confusion(labels, labels, 2, valid=valid).sum() == 3


def test_nothing_counted_is_nan_and_not_an_error():
  metrics = segmentation.iou_metrics(np.zeros((2, 2)))
  assert np.isnan(metrics['mIoU']) and np.isnan(metrics['aAcc'])


def test_accuracy():
  logits, labels = example(2)
  known = labels != 255
  want = (logits.argmax(-1) == labels)[known].mean()
  assert segmentation.pixel_accuracy(logits, labels) == pytest.approx(want)
