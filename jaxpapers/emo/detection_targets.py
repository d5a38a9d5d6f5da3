"""Anchors, targets, losses and inference of the one-stage detectors: pure functions of what a head returns.

Everything of one batch lies in one axis of anchors: level after level (finest first), row-major over the cells of a
level, the anchors of a cell together. SSD (Liu et al., 2016), RetinaNet (Lin et al., 2017).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.ops import anchors as anchor_ops
from jaxpapers.ops import boxes as box_ops
from jaxpapers.ops import detection_losses, nms
from jaxpapers.ops.assign import IGNORED, max_iou_assign


class AnchorSet(NamedTuple):
  """The anchors of a head for one input size; on the host.

  Attributes:
    boxes: [anchors, 4] float32 (x1, y1, x2, y2).
    sizes: (rows, columns) of each level.
    strides: pixels between the cells of each level.
    per_cell: anchors of a cell.
  """

  boxes: np.ndarray
  sizes: tuple[tuple[int, int], ...]
  strides: tuple[float, ...]
  per_cell: int

  @property
  def counts(self) -> tuple[int, ...]:
    """Anchors of each level."""
    return tuple(rows * columns * self.per_cell for rows, columns in self.sizes)

  def valid(self, image_size: jax.Array) -> jax.Array:
    """Anchors whose cell lies on an image in the top left corner of the canvas.

    Args:
      image_size: [2] or [batch, 2] (height, width).

    Returns:
      [anchors] or [batch, anchors] bool: row < ceil(height / stride) and column < ceil(width / stride).
    """
    row, column, stride = anchor_ops.cells(self.sizes, self.strides, self.per_cell).T
    size = jnp.asarray(image_size, jnp.float32)[..., None]
    return (row < jnp.ceil(size[..., 0, :] / stride)) & (column < jnp.ceil(size[..., 1, :] / stride))


def level_sizes(first: tuple[int, int], levels: int) -> tuple[tuple[int, int], ...]:
  """(rows, columns) of `levels` maps, each half of the one before, rounded up."""
  sizes = [tuple(first)]
  while len(sizes) < levels:
    sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
  return tuple(sizes)


def ssdlite_anchors(
  first: tuple[int, int] = (20, 20),
  strides: Sequence[float] = (16, 32, 64, 107, 160, 320),
  minimums: Sequence[float] = (48, 100, 150, 202, 253, 304),
  maximums: Sequence[float] = (100, 150, 202, 253, 304, 320),
) -> AnchorSet:
  """SSDLite's anchors, 3,234 by default; `first` is the size of the finest map (20x20 for a 320x320 image)."""
  sizes = level_sizes(first, len(strides))
  boxes = np.concatenate(anchor_ops.ssd_anchors(sizes, strides, minimums, maximums))
  return AnchorSet(boxes, sizes, tuple(strides), 6)


def retinanet_anchors(first: tuple[int, int], strides: Sequence[float] = (8, 16, 32, 64, 128)) -> AnchorSet:
  """RetinaNet's anchors, nine a cell; `first` is the size of the finest map (stride 8)."""
  sizes = level_sizes(first, len(strides))
  return AnchorSet(np.concatenate(anchor_ops.retinanet_anchors(sizes, strides)), sizes, tuple(strides), 9)


class Targets(NamedTuple):
  """What every anchor of an image should say.

  Attributes:
    labels: [anchors] int32, the class; `background` for negatives and for what does not count.
    label_weights: [anchors] float32, 0 for ignored and invalid anchors.
    codes: [anchors, 4] float32, 0 where not positive.
    positive: [anchors] bool.
  """

  labels: jax.Array
  label_weights: jax.Array
  codes: jax.Array
  positive: jax.Array


def build_targets(
  anchors: jax.Array,
  anchor_valid: jax.Array,
  boxes: jax.Array,
  labels: jax.Array,
  truth_valid: jax.Array,
  *,
  background: int,
  positive: float = 0.5,
  negative: float = 0.5,
  std: tuple[float, float, float, float],
  all_ties: bool = False,
) -> Targets:
  """Targets of one image; vmap over images.

  Args:
    anchors: [anchors, 4].
    anchor_valid: [anchors] bool.
    boxes: [truths, 4], padded.
    labels: [truths] int.
    truth_valid: [truths] bool.
    background: label of negatives (the last class index).
    positive: IoU from which an anchor is positive.
    negative: IoU below which it is negative.
    std: scale of the codes.
    all_ties: see `max_iou_assign`.
  """
  chex.assert_shape(boxes, (None, 4))
  index, _ = max_iou_assign(
    anchors,
    boxes,
    truth_valid,
    positive=positive,
    negative=negative,
    low_quality=0.0,
    all_ties=all_ties,
    anchor_valid=anchor_valid,
  )
  is_positive = index >= 0
  chosen = jnp.maximum(index, 0)
  # Where nothing is matched the anchor itself is encoded, which is finite, and then dropped.
  matched = jnp.where(is_positive[:, None], boxes[chosen], anchors)
  return Targets(
    jnp.where(is_positive, labels[chosen], background).astype(jnp.int32),
    (index != IGNORED).astype(jnp.float32),
    jnp.where(is_positive[:, None], box_ops.encode(matched, anchors, std), 0.0),
    is_positive,
  )


def positives(targets: Targets) -> jax.Array:
  """N of the losses: the sum over images of max(positive anchors, 1); `targets` are batched."""
  return jnp.maximum(targets.positive.sum(axis=1), 1).sum().astype(jnp.float32)


def ssd_losses(
  logits: jax.Array, codes: jax.Array, targets: Targets, counts: Sequence[int], ratio: int = 3
) -> tuple[jax.Array, jax.Array]:
  """SSD's classification and box loss of each image, ([batch], [batch]); the total is the sum of all.

  N counts the positives of the whole batch. (The official program counts those of a device.)

  Args:
    logits: [batch, anchors, classes + 1]; the last is background.
    codes: [batch, anchors, 4].
    targets: batched.
    counts: anchors of each level.
    ratio: negatives per positive.
  """
  chex.assert_shape(codes, (logits.shape[0], sum(counts), 4))
  background = logits.shape[-1] - 1
  count = positives(targets)
  classification = jax.vmap(
    lambda scores, labels, weights: detection_losses.hard_negative_cross_entropy(
      scores, labels, weights, background, ratio
    )
  )(logits.astype(jnp.float32), targets.labels, targets.label_weights)
  distance = detection_losses.smooth_l1(codes.astype(jnp.float32), targets.codes).sum(axis=-1)
  box = jnp.where(targets.positive, distance, 0).sum(axis=1)
  return classification / count, box / count


def retinanet_losses(
  logits: jax.Array, codes: jax.Array, targets: Targets, counts: Sequence[int]
) -> tuple[jax.Array, jax.Array]:
  """RetinaNet's focal and L1 loss of each level, ([levels], [levels]); the total is the sum of all.

  Args:
    logits: [batch, anchors, classes].
    codes: [batch, anchors, 4].
    targets: batched; the label `classes` is background.
    counts: anchors of each level.
  """
  chex.assert_shape(codes, (logits.shape[0], sum(counts), 4))
  truth = jax.nn.one_hot(targets.labels, logits.shape[-1])  # background has no 1
  focal = detection_losses.sigmoid_focal(logits.astype(jnp.float32), truth).sum(axis=-1) * targets.label_weights
  distance = detection_losses.smooth_l1(codes.astype(jnp.float32), targets.codes, beta=0).sum(axis=-1)
  distance = jnp.where(targets.positive, distance, 0)
  ends = np.cumsum(counts)[:-1]
  count = positives(targets)

  def by_level(values):
    return jnp.stack([part.sum() for part in jnp.split(values, ends, axis=1)]) / count

  return by_level(focal), by_level(distance)


def ssd_scores(logits: jax.Array) -> jax.Array:
  """Probabilities of the classes without background, [..., classes]."""
  return jax.nn.softmax(logits.astype(jnp.float32), axis=-1)[..., :-1]


def retinanet_scores(logits: jax.Array) -> jax.Array:
  """Independent probabilities of the classes, [..., classes]."""
  return jax.nn.sigmoid(logits.astype(jnp.float32))


def detect(
  scores: jax.Array,
  codes: jax.Array,
  anchors: jax.Array,
  counts: Sequence[int],
  image_size: jax.Array,
  *,
  std: tuple[float, float, float, float],
  score_threshold: float,
  nms_threshold: float,
  max_detections: int,
  per_level: int = 1000,
) -> nms.Detections:
  """Detections of one image; vmap over images.

  Pairs (anchor, class) above the score threshold, the best `per_level` of each level, decoded, clipped to the image,
  suppressed within each class across all levels.

  Args:
    scores: [anchors, classes] in [0, 1].
    codes: [anchors, 4].
    anchors: [anchors, 4].
    counts: anchors of each level.
    image_size: [2] (height, width).
    std: scale of the codes.
    score_threshold: a pair must score more.
    nms_threshold: IoU above which the lower score goes.
    max_detections: length of the result.
    per_level: candidates of a level.
  """
  chex.assert_shape(codes, (sum(counts), 4))
  parts, start = [], 0
  for count in counts:
    value, anchor, label, valid = nms.top_pairs(scores[start : start + count], score_threshold, per_level)
    parts.append((value, anchor + start, label, valid))
    start += count
  value, anchor, label, valid = (jnp.concatenate(part) for part in zip(*parts, strict=True))
  boxes = box_ops.clip(box_ops.decode(codes[anchor].astype(jnp.float32), anchors[anchor], std), image_size)
  return nms.nms(boxes, value, label, valid, threshold=nms_threshold, max_detections=max_detections)


@dataclasses.dataclass(frozen=True)
class Family:
  """How a kind of detector assigns anchors, measures its loss and picks detections.

  Attributes:
    losses: (logits, codes, targets, anchors per level) -> (classification, box), whose sums are the loss.
    scores: logits -> probabilities of the classes without background.
    std: scale of the codes.
    negative: IoU below which an anchor is negative; from 0.5 it is positive.
    all_ties: see `max_iou_assign`.
    score_threshold: a detection must score more.
    nms_threshold: IoU above which the lower score goes.
    max_detections: of an image.
  """

  losses: Callable[[jax.Array, jax.Array, Targets, Sequence[int]], tuple[jax.Array, jax.Array]]
  scores: Callable[[jax.Array], jax.Array]
  std: tuple[float, float, float, float]
  negative: float
  all_ties: bool
  score_threshold: float
  nms_threshold: float
  max_detections: int

  def targets(
    self,
    anchors: AnchorSet,
    anchor_valid: jax.Array,
    boxes: jax.Array,
    labels: jax.Array,
    truth_valid: jax.Array,
    classes: int,
  ) -> Targets:
    """Targets of a batch: the arguments of `build_targets` with a leading batch axis; background is `classes`."""

    def one(anchor_valid, boxes, labels, truth_valid):
      return build_targets(
        jnp.asarray(anchors.boxes),
        anchor_valid,
        boxes,
        labels,
        truth_valid,
        background=classes,
        negative=self.negative,
        std=self.std,
        all_ties=self.all_ties,
      )

    return jax.vmap(one)(anchor_valid, boxes, labels, truth_valid)

  def detect(self, logits: jax.Array, codes: jax.Array, anchors: AnchorSet, image_size: jax.Array) -> nms.Detections:
    """Detections of a batch; logits and codes [batch, anchors, ...], image_size [batch, 2] (height, width)."""

    def one(scores, codes, image_size):
      return detect(
        scores,
        codes,
        jnp.asarray(anchors.boxes),
        anchors.counts,
        image_size,
        std=self.std,
        score_threshold=self.score_threshold,
        nms_threshold=self.nms_threshold,
        max_detections=self.max_detections,
      )

    return jax.vmap(one)(self.scores(logits), codes, image_size)


SSDLITE = Family(
  losses=ssd_losses,
  scores=ssd_scores,
  std=(0.1, 0.1, 0.2, 0.2),
  negative=0.5,
  all_ties=False,
  score_threshold=0.02,
  nms_threshold=0.45,
  max_detections=200,
)
RETINANET = Family(
  losses=retinanet_losses,
  scores=retinanet_scores,
  std=(1.0, 1.0, 1.0, 1.0),
  negative=0.4,
  all_ties=True,
  score_threshold=0.05,
  nms_threshold=0.5,
  max_detections=100,
)
