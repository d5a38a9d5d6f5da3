"""From predictions to instances."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxpapers.ops import resize


class Instances(NamedTuple):
  """Instances of one image, by falling score.

  Attributes:
    scores: [count] float32.
    classes: [count] int32.
    masks: [count, height, width] bool.
    boxes: [count, 4] float32, tight around the mask, (x1, y1, x2, y2); zeros for an empty mask.
  """

  scores: jax.Array
  classes: jax.Array
  masks: jax.Array
  boxes: jax.Array


def tight_boxes(masks: jax.Array) -> jax.Array:
  """[..., height, width] bool -> [..., 4] float32, (x1, y1, x2, y2) with x2 and y2 past the last pixel."""
  height, width = masks.shape[-2:]
  columns, rows = jnp.any(masks, axis=-2), jnp.any(masks, axis=-1)
  some = jnp.any(columns, axis=-1)
  left, top = jnp.argmax(columns, axis=-1), jnp.argmax(rows, axis=-1)
  right = width - jnp.argmax(columns[..., ::-1], axis=-1)
  bottom = height - jnp.argmax(rows[..., ::-1], axis=-1)
  boxes = jnp.stack([left, top, right, bottom], axis=-1).astype(jnp.float32)
  return jnp.where(some[..., None], boxes, 0.0)


def instances(
  logits: jax.Array,
  masks: jax.Array,
  padded: tuple[int, int],
  size: tuple[int, int],
  output: tuple[int, int],
  limit: int = 100,
) -> Instances:
  """The best pairs of query and class of one image. Source: Mask2Former's instance inference.

  Args:
    logits: [queries, classes + 1].
    masks: [queries, h, w] logits.
    padded: (height, width) that the network saw.
    size: (height, width) of the image inside the padding.
    output: (height, width) of the masks asked for.
    limit: number of instances.
  """
  chex.assert_equal_shape_prefix([logits, masks], 1)
  probability = jax.nn.softmax(logits, axis=-1)[:, :-1]
  classes = probability.shape[-1]
  score, index = jax.lax.top_k(probability.reshape(-1), min(limit, probability.size))
  chosen = masks[index // classes][..., None]
  large = resize.bilinear(chosen, padded)[:, : size[0], : size[1]]
  large = resize.bilinear(large, output)[..., 0]
  binary = large > 0.0
  inside = jnp.sum(jax.nn.sigmoid(large) * binary, axis=(1, 2)) / (binary.sum(axis=(1, 2)) + 1e-6)
  order = jnp.argsort(-(score * inside), stable=True)
  binary = binary[order]
  return Instances((score * inside)[order], (index % classes)[order].astype(jnp.int32), binary, tight_boxes(binary))


class QueryMasks(NamedTuple):
  """Every query's mask, which all classes share: instances of many classes at the memory of one.

  Attributes:
    scores: [..., queries, classes], class probability times the mask's mean.
    masks: [..., queries, height, width] bool.
  """

  scores: jax.Array
  masks: jax.Array


def query_masks(logits: jax.Array, masks: jax.Array, size: tuple[int, int]) -> QueryMasks:
  """Scores and masks of a batch of images without padding. Source: Mask2Former's instance inference.

  Args:
    logits: [batch, queries, classes + 1].
    masks: [batch, queries, h, w] logits.
    size: (height, width) of the images.
  """
  chex.assert_equal_shape_prefix([logits, masks], 2)
  probability = jax.nn.softmax(logits, axis=-1)[..., :-1]
  large = resize.bilinear(masks.transpose(0, 2, 3, 1), size).transpose(0, 3, 1, 2)
  binary = large > 0.0
  inside = jnp.sum(jax.nn.sigmoid(large) * binary, axis=(2, 3)) / (binary.sum(axis=(2, 3)) + 1e-6)
  return QueryMasks(probability * inside[..., None], binary)


def mask_ious(found: jax.Array, truth: jax.Array) -> jax.Array:
  """Intersection over union of masks [batch, queries, h, w] and [batch, objects, h, w]: [batch, queries, objects]."""
  a, b = (x.astype(jnp.float32).reshape(*x.shape[:2], -1) for x in (found, truth))
  together = jnp.einsum('bqp,bgp->bqg', a, b)
  union = a.sum(axis=-1)[:, :, None] + b.sum(axis=-1)[:, None] - together
  return together / jnp.maximum(union, 1.0)
