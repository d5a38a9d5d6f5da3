"""Denoising queries: noised centres of the ground truth as queries that need no matching (DN-DETR).

The published program makes as many queries as the fullest sample of the batch needs. Here their number is fixed, so
that one program serves every batch, and those beyond the published number are hidden: same values, same gradients.
"""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxpapers.cmt import encoding


class Denoising(NamedTuple):
  """S slots for denoising queries, before the learned ones; slots that are not used come first.

  Attributes:
    references: [batch, S, 3] in units of the range, in [0, 1]; 0 where not valid.
    labels: [batch, S] int32, the class to predict; the number of classes (background) where the noise is large or the
      slot not valid.
    raw_labels: [batch, S] int32, the class before that.
    boxes: [batch, S, 9] float32, the box to predict, bottom-centred.
    valid: [batch, S] bool, where a ground truth stands.
    used: [S] bool, the published program's slots; all of them may be seen within their group.
    group: [S] int32, -1 where not used.
    index: [S] int32, which of a sample's valid ground truths, in order; meaningless where not used.
    blocked: [S + queries, S + queries] bool, True where the row may not see the column.
    count: float32 scalar, groups times ground truths of the batch.
  """

  references: jax.Array
  labels: jax.Array
  raw_labels: jax.Array
  boxes: jax.Array
  valid: jax.Array
  used: jax.Array
  group: jax.Array
  index: jax.Array
  blocked: jax.Array
  count: jax.Array


def num_slots(num_queries: int, max_boxes: int, groups: int = 10) -> int:
  """Slots that suffice for every batch: groups shrink so that there are never more than the learned queries.

  Source: the authors' query denoising (DN-DETR, Li et al., CVPR 2022).
  """
  return min(num_queries, groups * max_boxes)


def draw_noise(key: jax.Array, batch: int, slots: int) -> jax.Array:
  """Uniform in [-1, 1], [batch, slots, 3] float32.

  Source: the authors' query denoising (DN-DETR, Li et al., CVPR 2022).
  """
  return jax.random.uniform(key, (batch, slots, 3), minval=-1.0, maxval=1.0)


def noised_queries(
  noise: jax.Array,
  boxes: jax.Array,
  labels: jax.Array,
  boxes_mask: jax.Array,
  *,
  num_queries: int,
  num_classes: int,
  pc_range: Sequence[float],
  groups: int = 10,
  scale: float = 1.0,
  split: float = 0.75,
) -> Denoising:
  """Moves every ground truth's centre inside its box, once per group.

  Source: the authors' query denoising (DN-DETR, Li et al., CVPR 2022).

  Args:
    noise: [batch, num_slots(...), 3] in [-1, 1], in units of half the box's sides; the yaw plays no part.
    boxes: [batch, boxes, 9] x y z l w h yaw vx vy, bottom-centred.
    labels: [batch, boxes] int.
    boxes_mask: [batch, boxes] bool, False for padding.
    num_queries: learned queries that follow.
    num_classes: of the labels; the number itself means background.
    pc_range: x, y, z lower then upper bounds in metres.
    groups: at most so many; fewer if a sample has more than num_queries / groups boxes.
    scale: of the noise.
    split: noise of a larger norm makes the query background.
  """
  chex.assert_shape(boxes, (None, None, 9))
  batch, most = boxes.shape[:2]
  chex.assert_shape([labels, boxes_mask], (batch, most))
  slots = num_slots(num_queries, most, groups)
  chex.assert_shape(noise, (batch, slots, 3))
  counts = boxes_mask.sum(axis=1)
  per_group = jnp.maximum(counts.max(), 1)
  made = jnp.minimum(groups, num_queries // per_group) * (counts.max() > 0)
  # Slots that are not used come first, so that the last used one borders on the learned queries.
  position = jnp.arange(slots) - (slots - made * per_group)
  used = position >= 0
  group = jnp.where(used, position // per_group, -1)
  index = jnp.where(used, position % per_group, 0)
  order = jnp.argsort(~boxes_mask, axis=1, stable=True)
  source = order[:, index]
  valid = used & (index < counts[:, None])
  own = jnp.take_along_axis(boxes, source[..., None], axis=1)
  raw = jnp.take_along_axis(labels, source, axis=1).astype(jnp.int32)
  center = own[..., :3].at[..., 2].add(own[..., 5] / 2) + noise * (own[..., 3:6] / 2) * scale
  references = jnp.clip(encoding.normalise_points(center, pc_range), 0.0, 1.0)
  large = jnp.linalg.norm(noise, axis=-1) > split
  learned = jnp.full(num_queries, -1)
  groups_of_all = jnp.concatenate([group, learned])
  sees_slot = (groups_of_all[:, None] == group) & used
  return Denoising(
    references=jax.lax.stop_gradient(jnp.where(valid[..., None], references, 0.0)),
    labels=jnp.where(large | ~valid, num_classes, raw),
    raw_labels=jnp.where(valid, raw, num_classes),
    boxes=own,
    valid=valid,
    used=used,
    group=group,
    index=index,
    blocked=jnp.concatenate([~sees_slot, jnp.zeros((slots + num_queries, num_queries), bool)], axis=1),
    count=(made * counts.sum()).astype(jnp.float32),
  )
