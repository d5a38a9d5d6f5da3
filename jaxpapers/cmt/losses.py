"""The training loss: every layer's outputs against matched boxes, and denoising queries against their own."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.cmt import coder
from jaxpapers.cmt.denoising import Denoising
from jaxpapers.cmt.head import HeadOutput
from jaxpapers.cmt.matching import CODE_WEIGHTS, PUBLISHED, Weights, assign, matching_cost
from jaxpapers.ops.detection_losses import sigmoid_focal

_TINY = float(np.finfo(np.float32).eps)


class Terms(NamedTuple):
  """Weighted terms per decoder layer, summed over tasks; each [layers] float32.

  Attributes:
    label: focal loss of the learned queries.
    box: L1 of the matched ones.
    dn_label: focal loss of the denoising queries; 0 without.
    dn_box: L1 of them.
  """

  label: jax.Array
  box: jax.Array
  dn_label: jax.Array
  dn_box: jax.Array


def _box_l1(codes, targets, counts, code_weights):
  """Sum over counted rows with a finite target. codes [L, B, n, 10], targets and counts over [B, n] -> [L]."""
  counts = counts & jnp.all(jnp.isfinite(targets), axis=-1)
  difference = jnp.where(counts[..., None], codes - jnp.where(counts[..., None], targets, 0.0), 0.0)
  return jnp.sum(jnp.abs(difference) * np.asarray(code_weights, np.float32), axis=(1, 2, 3))


def _focal(logits, labels):
  """Sum over everything but layers; a label beyond the classes is background. [L, B, n, c], [L, B, n] -> [L]."""
  return jnp.sum(sigmoid_focal(logits, jax.nn.one_hot(labels, logits.shape[-1])), axis=(1, 2, 3))


def _offsets(tasks: Sequence[Mapping[str, jax.Array]]) -> list[int]:
  """First class of every task."""
  return [int(n) for n in np.cumsum([0] + [task['cls_logits'].shape[-1] for task in tasks])[:-1]]


def _in_task(labels, offset, classes):
  return (labels >= offset) & (labels < offset + classes)


def assignments(
  output: HeadOutput,
  boxes: jax.Array,
  labels: jax.Array,
  boxes_mask: jax.Array,
  *,
  fixed_order: bool = False,
  weights: Weights = PUBLISHED,
  code_weights: Sequence[float] = CODE_WEIGHTS,
) -> jax.Array:
  """The query of every box in every task and layer, [tasks, layers, batch, boxes] int32; see `total_loss`.

  Boxes of other tasks, and padding, hold queries that mean nothing.
  """
  targets = coder.encode_boxes(boxes)
  costs, valid = [], []
  for task, offset in zip(output.tasks, _offsets(output.tasks), strict=True):
    layers, classes = task['cls_logits'].shape[0], task['cls_logits'].shape[-1]
    own = jnp.broadcast_to(labels - offset, (layers, *labels.shape))
    costs.append(
      matching_cost(task['cls_logits'], coder.box_code(task, fixed_order), own, targets, weights, code_weights)
    )
    valid.append(jnp.broadcast_to(boxes_mask & _in_task(labels, offset, classes), own.shape))
  return assign(jnp.stack(costs), jnp.stack(valid))


def loss_terms(
  output: HeadOutput,
  denoising: Denoising | None,
  boxes: jax.Array,
  labels: jax.Array,
  boxes_mask: jax.Array,
  *,
  fixed_order: bool = False,
  weights: Weights = PUBLISHED,
  code_weights: Sequence[float] = CODE_WEIGHTS,
  split: float = 0.75,
  axis_name: str | None = None,
  queries: jax.Array | None = None,
) -> Terms:
  """Terms of every layer; arguments of `total_loss`, and `queries`, the result of `assignments` where it is at hand."""
  chex.assert_shape(boxes, (None, None, 9))
  chex.assert_shape([labels, boxes_mask], boxes.shape[:2])
  if queries is None:
    settings = {'fixed_order': fixed_order, 'weights': weights, 'code_weights': code_weights}
    queries = assignments(output, boxes, labels, boxes_mask, **settings)
  targets = coder.encode_boxes(boxes)
  offsets = _offsets(output.tasks)
  label = box = dn_label = dn_box = 0.0
  for task, offset, query in zip(output.tasks, offsets, queries, strict=True):
    logits = task['cls_logits']
    layers, batch, count, classes = logits.shape
    mine = boxes_mask & _in_task(labels, offset, classes)
    lane = (jnp.arange(layers)[:, None, None], jnp.arange(batch)[:, None], query)
    wanted = jnp.full((layers, batch, count), classes).at[lane].set(jnp.where(mine, labels - offset, classes))
    positives = mine.sum()
    weighed = positives + 0.1 * (batch * count - positives)
    label += weights.label * _focal(logits, wanted) / (jnp.maximum(weighed, 1.0) + _TINY)
    matched = coder.box_code(task, fixed_order)[lane]
    box += weights.box * _box_l1(matched, targets, mine, code_weights) / (positives + _TINY)
  if denoising is not None:
    total = denoising.count
    # Of the noise's cube, the ball inside which a query keeps its class holds about this share.
    kept = jnp.maximum(total * math.pi / 6 * split**3, 1.0)
    mean = total if axis_name is None else jax.lax.pmean(total, axis_name)
    targets = coder.encode_boxes(denoising.boxes)
    for task, offset in zip(output.noised, offsets, strict=True):
      logits = task['cls_logits']
      classes = logits.shape[-1]
      own = jnp.where(_in_task(denoising.labels, offset, classes), denoising.labels - offset, classes)
      losses = sigmoid_focal(logits, jnp.broadcast_to(jax.nn.one_hot(own, classes), logits.shape))
      losses = jnp.where(denoising.valid[..., None], losses, 0.0)
      dn_label += weights.label * jnp.sum(losses, axis=(1, 2, 3)) / kept
      mine = denoising.valid & _in_task(denoising.raw_labels, offset, classes)
      codes = coder.box_code(task, fixed_order)
      dn_box += weights.box * _box_l1(codes, targets, mine, code_weights) / jnp.maximum(mean, 1.0)
  zero = jnp.zeros(output.states.shape[0])
  return Terms(label, box, zero + dn_label, zero + dn_box)


def total_loss(
  output: HeadOutput,
  denoising: Denoising | None,
  boxes: jax.Array,
  labels: jax.Array,
  boxes_mask: jax.Array,
  *,
  fixed_order: bool = False,
  weights: Weights = PUBLISHED,
  code_weights: Sequence[float] = CODE_WEIGHTS,
  split: float = 0.75,
  axis_name: str | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Sum over layers and tasks of matched and denoising losses.

  The published normalisers count over what one device holds: under jit the whole batch, under pmap a device's share.

  Args:
    output: of the head.
    denoising: the queries that the head was given, or None.
    boxes: [batch, boxes, 9] x y z l w h yaw vx vy, bottom-centred; at most as many as there are queries.
    labels: [batch, boxes] int, in class order.
    boxes_mask: [batch, boxes] bool, False for padding. Without any box the loss is finite.
    fixed_order: see `coder.box_code`; the published program has False, for training from scratch True is right.
    weights: of label and box terms.
    code_weights: of the entries of a box code.
    split: that `denoising` was made with.
    axis_name: a pmap axis, over which the denoising boxes are counted; None under jit.

  Returns:
    (loss, {'label', 'box', 'dn_label', 'dn_box'}), float32 scalars; the loss is the sum of the four.
  """
  terms = loss_terms(
    output,
    denoising,
    boxes,
    labels,
    boxes_mask,
    fixed_order=fixed_order,
    weights=weights,
    code_weights=code_weights,
    split=split,
    axis_name=axis_name,
  )
  metrics = {name: jnp.sum(value) for name, value in terms._asdict().items()}
  return sum(metrics.values()), metrics
