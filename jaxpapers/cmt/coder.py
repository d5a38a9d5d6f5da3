"""Box codes and detections: what the outputs mean, and how the best become boxes."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

POST_CENTER_RANGE = (-61.2, -61.2, -10.0, 61.2, 61.2, 10.0)
"""Where the published models keep centres, metres."""


class Detections(NamedTuple):
  """Best first.

  Attributes:
    boxes: [batch, K, 9] float32 x y z l w h yaw vx vy, bottom-centred.
    scores: [batch, K] float32 in [0, 1].
    labels: [batch, K] int32.
    valid: [batch, K] bool, whether the centre lies in the range; the published program drops the others.
  """

  boxes: jax.Array
  scores: jax.Array
  labels: jax.Array
  valid: jax.Array


def encode_boxes(boxes: jax.Array) -> jax.Array:
  """Boxes as regression targets. Source: the authors' box coder.

  Args:
    boxes: [..., 9] x y z l w h yaw vx vy, bottom-centred; of a box without extent the target is not finite.

  Returns:
    [..., 10] x, y, log l, log w, z of the centre of gravity, log h, sin yaw, cos yaw, vx, vy.
  """
  chex.assert_axis_dimension(boxes, -1, 9)
  x, y, z, length, width, height, yaw, vx, vy = jnp.moveaxis(boxes, -1, 0)
  code = [x, y, jnp.log(length), jnp.log(width), z + height / 2, jnp.log(height), jnp.sin(yaw), jnp.cos(yaw), vx, vy]
  return jnp.stack(code, axis=-1)


def decode_boxes(code: jax.Array) -> jax.Array:
  """Inverse of `encode_boxes`: [..., 10] -> [..., 9], bottom-centred. Source: the authors' box coder."""
  chex.assert_axis_dimension(code, -1, 10)
  x, y, length, width, z, height, sine, cosine, vx, vy = jnp.moveaxis(code, -1, 0)
  height = jnp.exp(height)
  boxes = [x, y, z - height / 2, jnp.exp(length), jnp.exp(width), height, jnp.arctan2(sine, cosine), vx, vy]
  return jnp.stack(boxes, axis=-1)


def box_code(task: Mapping[str, jax.Array], fixed_order: bool = False) -> jax.Array:
  """The code that a task's outputs stand for, in the order of `encode_boxes`.

  The published program puts height before the three of dim, while the target has log l and log w there: released
  weights hold log l in `height` (squashed into the range of z), log w in dim[0], z in dim[1] and log h in dim[2].

  Args:
    task: outputs of one task, see HeadOutput.
    fixed_order: reads `height` as z and `dim` as log l, log w, log h; for training from scratch.

  Returns:
    [..., 10].
  """
  height, dim = task['height'], task['dim']
  sizes = [dim[..., :2], height, dim[..., 2:]] if fixed_order else [height, dim]
  return jnp.concatenate([task['center'], *sizes, task['rot'], task['vel']], axis=-1)


def decode(
  tasks: Sequence[Mapping[str, jax.Array]],
  *,
  max_num: int = 300,
  post_center_range: Sequence[float] = POST_CENTER_RANGE,
  fixed_order: bool = False,
) -> Detections:
  """The best pairs of query and class of the last layer as boxes: no threshold, no suppression.

  Source: the authors' box coder (the paper's section on the decoder and loss).

  Args:
    tasks: `HeadOutput.tasks`; a box is read from the task that its class belongs to.
    max_num: boxes per sample, at most queries times classes.
    post_center_range: x, y, z lower then upper bounds of centres of gravity, inclusive.
    fixed_order: see `box_code`.
  """
  last = [{name: value[-1] for name, value in task.items()} for task in tasks]
  logits = jnp.concatenate([task['cls_logits'] for task in last], axis=-1).astype(jnp.float32)
  batch, queries, classes = logits.shape
  owner = np.repeat(np.arange(len(last)), [task['cls_logits'].shape[-1] for task in last])
  scores, chosen = jax.lax.top_k(jax.nn.sigmoid(logits).reshape(batch, -1), min(max_num, queries * classes))
  labels, query = chosen % classes, chosen // classes
  codes = jnp.stack([box_code(task, fixed_order) for task in last], axis=1).reshape(batch, -1, 10)
  code = jnp.take_along_axis(codes, (jnp.asarray(owner)[labels] * queries + query)[..., None], axis=1)
  center = jnp.concatenate([code[..., :2], code[..., 4:5]], axis=-1)
  low, high = np.asarray(post_center_range[:3], np.float32), np.asarray(post_center_range[3:], np.float32)
  valid = jnp.all((center >= low) & (center <= high), axis=-1)
  return Detections(decode_boxes(code), scores, labels.astype(jnp.int32), valid)
