"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, section 4.1)."""

import math
from collections.abc import Sequence

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.reft.sampling import corners

Sizes = Sequence[tuple[int, int]]


def deformable_sampling(values: jax.Array, sizes: Sizes, locations: jax.Array, weights: jax.Array) -> jax.Array:
  """Weighted sum of bilinear samples over levels and points.

  Source: Deformable DETR (arXiv 2010.04159), equation of section 4.1.

  Args:
    values: [batch, tokens, heads, channels]; the levels, each row-major, one after the other.
    sizes: (height, width) of each level.
    locations: [batch, queries, heads, levels, points, 2], (x, y) in [0, 1].
    weights: [batch, queries, heads, levels, points].

  Returns:
    [batch, queries, heads, channels].
  """
  batch, tokens, heads, channels = values.shape
  queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
  chex.assert_shape(locations, (batch, queries, heads, levels, points, 2))
  chex.assert_shape(weights, (batch, queries, heads, levels, points))
  if len(sizes) != levels or sum(h * w for h, w in sizes) != tokens:
    raise ValueError(f'{tokens} tokens are no {levels} levels of sizes {tuple(sizes)}.')
  by_head = values.transpose(0, 2, 1, 3)
  total, start = jnp.zeros((batch, heads, queries, channels), values.dtype), 0
  for level, (height, width) in enumerate(sizes):
    part = by_head[:, :, start : start + height * width]
    start += height * width
    index, share = corners(locations[:, :, :, level], (height, width))
    share = (share * weights[:, :, :, level, :, None]).astype(values.dtype)
    index, share = (a.transpose(0, 2, 1, 3, 4).reshape(batch, heads, queries, -1) for a in (index, share))
    picked = jnp.take_along_axis(part, index.reshape(batch, heads, -1, 1), axis=2)
    total = total + jnp.einsum('bhqt,bhqtc->bhqc', share, picked.reshape(*index.shape, channels))
  return total.transpose(0, 2, 1, 3)


def _directions(heads: int, levels: int, points: int):
  """Initial offsets: head h looks along angle 2 pi h / heads, point p at p + 1 pixels, on every level."""

  def init(key, shape, dtype=jnp.float32):
    del key
    angle = 2.0 * math.pi * np.arange(heads) / heads
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    direction /= np.abs(direction).max(axis=-1, keepdims=True)
    grid = direction[:, None, None, :] * (np.arange(points)[None, None, :, None] + 1.0)
    return jnp.asarray(np.broadcast_to(grid, (heads, levels, points, 2)).reshape(shape), dtype)

  return init


class DeformableAttention(nn.Module):
  """Every query looks at a few points around its reference point on every level.

  Source: Deformable DETR (arXiv 2010.04159), section 4.1.

  Attributes:
    heads: of attention; divides the width.
    levels: of the feature pyramid.
    points: per head and level.
  """

  heads: int = 8
  levels: int = 3
  points: int = 4

  @nn.compact
  def __call__(
    self,
    queries: jax.Array,
    reference: jax.Array,
    values: jax.Array,
    sizes: Sizes,
    padding: jax.Array | None = None,
  ) -> jax.Array:
    """Attends.

    Args:
      queries: [batch, queries, width].
      reference: [batch or 1, queries, levels, 2] points (x, y) or [..., 4] boxes (x, y, width, height), in [0, 1].
      values: [batch, tokens, width].
      sizes: (height, width) of each level.
      padding: [batch, tokens] bool; True tokens count as zero.

    Returns:
      [batch, queries, width].
    """
    batch, count, width = queries.shape
    if width % self.heads:
      raise ValueError(f'{self.heads} heads do not divide the width {width}.')
    shape = (batch, count, self.heads, self.levels, self.points)
    xavier, zeros = nn.initializers.xavier_uniform(), nn.initializers.zeros
    value = nn.Dense(width, kernel_init=xavier, name='value_proj')(values)
    if padding is not None:
      value = jnp.where(padding[..., None], 0.0, value)
    offsets = nn.Dense(
      self.heads * self.levels * self.points * 2,
      kernel_init=zeros,
      bias_init=_directions(self.heads, self.levels, self.points),
      name='sampling_offsets',
    )(queries).reshape(*shape, 2)
    scores = nn.Dense(self.heads * self.levels * self.points, kernel_init=zeros, name='attention_weights')(queries)
    weights = jax.nn.softmax(scores.reshape(*shape[:3], -1), axis=-1).reshape(shape)
    at = reference[:, :, None, :, None, :]
    if reference.shape[-1] == 4:
      locations = at[..., :2] + offsets / self.points * at[..., 2:] * 0.5
    else:
      locations = at + offsets / jnp.asarray([(w, h) for h, w in sizes], offsets.dtype)[:, None]
    split = value.reshape(*value.shape[:2], self.heads, width // self.heads)
    attended = deformable_sampling(split, sizes, locations, weights).reshape(batch, count, width)
    return nn.Dense(width, kernel_init=xavier, name='output_proj')(attended)
