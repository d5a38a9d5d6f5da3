"""Assignment of anchors to ground truth by maximal IoU (Faster R-CNN, section 3.1.2), with static shapes."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxpapers.ops import boxes as boxes_ops

NEGATIVE = -1
IGNORED = -2


class Assignment(NamedTuple):
  """The outcome for one image.

  Attributes:
    index: [anchors] int32, the ground truth of a positive anchor; NEGATIVE or IGNORED otherwise.
    iou: [anchors] float32, the largest IoU with any ground truth (0 where there is none).
  """

  index: jax.Array
  iou: jax.Array


def max_iou_assign(
  anchors: jax.Array,
  truth: jax.Array,
  truth_valid: jax.Array,
  *,
  positive: float = 0.5,
  negative: float = 0.5,
  low_quality: float | None = 0.0,
  all_ties: bool = False,
  anchor_valid: jax.Array | None = None,
  ignore: jax.Array | None = None,
  ignore_valid: jax.Array | None = None,
  ignore_threshold: float = 0.5,
) -> Assignment:
  """Each anchor takes the ground truth of its largest IoU, and each ground truth gets at least one anchor.

  An anchor with largest IoU >= `positive` is positive for that ground truth (the first of equals), with < `negative`
  negative, and in between ignored. Then, for each ground truth in order, the anchor of its largest IoU is made positive
  for it, whatever it was: a later ground truth overwrites an earlier one.

  Args:
    anchors: [anchors, 4].
    truth: [truths, 4], padded.
    truth_valid: [truths] bool, False for padding.
    positive: lower bound of positives.
    negative: upper bound of negatives, <= positive.
    low_quality: a ground truth claims its best anchor if that IoU is at least this (0: always); None: never.
    all_ties: every anchor of the largest IoU is claimed, not only the first.
    anchor_valid: [anchors] bool; others take part in nothing and are IGNORED. Default: all.
    ignore: [regions, 4], crowd regions: an anchor that lies in one by more than `ignore_threshold` of its area, and
      that is no forced positive, is IGNORED.
    ignore_valid: [regions] bool. Default: all.
    ignore_threshold: see `ignore`.

  Raises:
    ValueError: if negative > positive.
  """
  if negative > positive:
    raise ValueError(f'negative ({negative}) must not be above positive ({positive}).')
  chex.assert_shape([anchors, truth], (None, 4))
  chex.assert_shape(truth_valid, (truth.shape[0],))
  if anchor_valid is None:
    anchor_valid = jnp.ones(anchors.shape[0], bool)
  taking_part = truth_valid[:, None] & anchor_valid[None, :]
  # [truths, anchors]; -1 lies below every threshold, so padding wins nothing.
  iou = jnp.where(taking_part, boxes_ops.iou_matrix(truth, anchors), -1.0)
  best_iou = jnp.max(iou, axis=0, initial=-1.0)
  best_truth = jnp.argmax(iou, axis=0) if truth.shape[0] else jnp.zeros(anchors.shape[0], jnp.int32)
  index = jnp.where(best_iou >= positive, best_truth, jnp.where(best_iou < negative, NEGATIVE, IGNORED))
  if ignore is not None and ignore.shape[0]:
    inside = boxes_ops.iou_matrix(anchors, ignore, over='first')
    if ignore_valid is not None:
      inside = jnp.where(ignore_valid[None, :], inside, 0)
    index = jnp.where(jnp.max(inside, axis=1) > ignore_threshold, IGNORED, index)
  if low_quality is not None and truth.shape[0]:
    index = _claim(index, iou, truth_valid, low_quality, all_ties)
  index = jnp.where(anchor_valid, index, IGNORED)
  return Assignment(index.astype(jnp.int32), jnp.maximum(best_iou, 0.0))


def _claim(index, iou, truth_valid, low_quality, all_ties):
  """Ground truths take their best anchors; the largest index is what writing them in order would leave."""
  number = jnp.arange(iou.shape[0])
  highest = jnp.max(iou, axis=1)
  claims = truth_valid & (highest >= low_quality)
  if all_ties:
    claimed = jnp.where((iou == highest[:, None]) & claims[:, None], number[:, None], -1).max(axis=0)
  else:
    best_anchor = jnp.argmax(iou, axis=1)
    claimed = jnp.full(iou.shape[1], -1).at[best_anchor].max(jnp.where(claims, number, -1))
  return jnp.where(claimed >= 0, claimed, index)
