"""Non-maximum suppression with static shapes."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxpapers.ops import boxes as boxes_ops


class Detections(NamedTuple):
  """Detections of one image, padded, in descending order of score.

  Attributes:
    boxes: [n, 4] float32.
    scores: [n] float32; 0 where invalid.
    labels: [n] int32; -1 where invalid.
    valid: [n] bool.
  """

  boxes: jax.Array
  scores: jax.Array
  labels: jax.Array
  valid: jax.Array


def nms(
  boxes: jax.Array,
  scores: jax.Array,
  labels: jax.Array,
  valid: jax.Array,
  *,
  threshold: float,
  max_detections: int,
) -> Detections:
  """Greedy suppression within each class.

  Of the candidates left, the one of highest score (of equals: the first) is kept, and every candidate of its class with
  IoU > threshold to it is dropped; until `max_detections` are kept or none is left. A pair of degenerate boxes (union
  0) has IoU 0, so it never suppresses.

  One step costs O(candidates) and there are at most `max_detections`, so that no matrix of all pairs is made.

  Args:
    boxes: [candidates, 4].
    scores: [candidates], finite.
    labels: [candidates] int.
    valid: [candidates] bool, False for padding.
    threshold: of IoU.
    max_detections: size of the result.

  Returns:
    Detections of length `max_detections`.
  """
  chex.assert_shape(boxes, (None, 4))
  count = boxes.shape[0]
  chex.assert_shape([scores, labels, valid], (count,))
  if not count:
    empty = jnp.zeros(max_detections)
    return Detections(jnp.zeros((max_detections, 4)), empty, empty.astype(jnp.int32) - 1, empty.astype(bool))
  boxes, scores, labels, valid = (jnp.asarray(x) for x in (boxes, scores, labels, valid))
  order = jnp.argsort(jnp.where(valid, -scores, jnp.inf), stable=True)
  boxes, scores, labels, valid = boxes[order], scores[order], labels[order], valid[order]

  def keep_next(alive, _):
    first = jnp.argmax(alive)
    found = alive[first]
    overlap = boxes_ops.iou_matrix(boxes[first][None], boxes)[0]
    alive &= ~((labels == labels[first]) & (overlap > threshold))
    return alive.at[first].set(False), (first, found)

  _, (kept, found) = jax.lax.scan(keep_next, valid, length=max_detections)
  return Detections(
    jnp.where(found[:, None], boxes[kept], 0),
    jnp.where(found, scores[kept], 0),
    jnp.where(found, labels[kept], -1).astype(jnp.int32),
    found,
  )


def top_pairs(scores: jax.Array, threshold: float, limit: int) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """The best (anchor, class) pairs above a score.

  Args:
    scores: [anchors, classes].
    threshold: pairs must score more.
    limit: at most so many; the first of equals come first.

  Returns:
    (scores, anchor index, class, valid), each [min(limit, anchors * classes)], in descending order of score.
  """
  chex.assert_rank(scores, 2)
  flat = scores.reshape(-1)
  values, where = jax.lax.top_k(flat, min(limit, flat.size))
  return values, where // scores.shape[1], where % scores.shape[1], values > threshold
