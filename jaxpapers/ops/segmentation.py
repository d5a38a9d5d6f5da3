"""Pixel cross-entropy and the intersection / union counts of semantic segmentation."""

from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

IGNORE = 255


def pixel_cross_entropy(logits: jax.Array, labels: jax.Array, ignore: int = IGNORE) -> jax.Array:
  """Mean cross-entropy over ALL pixels; ignored pixels add 0 to the sum but count in the denominator.

  An all-ignored label map therefore gives 0, and an ignored pixel has gradient 0.

  Args:
    logits: [..., classes].
    labels: [...] int in 0..classes - 1, or `ignore`.

  Returns:
    scalar.
  """
  chex.assert_equal_shape_prefix([logits, labels], labels.ndim)
  known = labels != ignore
  losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, jnp.where(known, labels, 0))
  return jnp.sum(jnp.where(known, losses, 0)) / labels.size


def pixel_accuracy(logits: jax.Array, labels: jax.Array, ignore: int = IGNORE) -> jax.Array:
  """Fraction of the pixels with a label whose largest logit is the label; 0 without any."""
  known = labels != ignore
  right = (jnp.argmax(logits, axis=-1) == labels) & known
  return right.sum() / jnp.maximum(known.sum(), 1)


def confusion(
  predictions: jax.Array, labels: jax.Array, classes: int, ignore: int = IGNORE, valid: jax.Array | None = None
) -> jax.Array:
  """Counts of pixels by (label, prediction).

  Args:
    predictions: [batch, ...] int in 0..classes - 1.
    labels: same shape; `ignore` is left out.
    classes: number of classes.
    valid: [batch] bool, examples that count.

  Returns:
    [classes, classes] int32; rows are labels. Its diagonal is the intersection, its row sums the label areas, its
    column sums the prediction areas.
  """
  chex.assert_equal_shape([predictions, labels])
  known = labels != ignore
  if valid is not None:
    known &= valid.reshape(-1, *[1] * (labels.ndim - 1))
  cell = jnp.where(known, labels * classes + predictions, classes * classes).reshape(-1)
  return jnp.bincount(cell, length=classes * classes + 1)[:-1].reshape(classes, classes).astype(jnp.int32)


def iou_metrics(counts: np.ndarray) -> Mapping[str, np.ndarray]:
  """IoU and accuracies of a confusion matrix that was summed over the whole set.

  Args:
    counts: [classes, classes], rows are labels.

  Returns:
    {'IoU': [classes] (NaN: absent from labels and predictions), 'Acc': [classes] (NaN: absent from labels),
    'mIoU', 'mAcc': means over what is not NaN, 'aAcc': share of right pixels}; NaN where nothing was counted.
  """
  counts = np.asarray(counts, np.float64)
  hit, label, prediction = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
  iou = _ratio(hit, label + prediction - hit)
  accuracy = _ratio(hit, label)
  return {
    'IoU': iou,
    'Acc': accuracy,
    'mIoU': _mean(iou),
    'mAcc': _mean(accuracy),
    'aAcc': _ratio(hit.sum(), label.sum()),
  }


def _ratio(top, bottom):
  return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1), np.nan)


def _mean(values):
  present = values[~np.isnan(values)]
  return present.mean() if present.size else np.float64(np.nan)
