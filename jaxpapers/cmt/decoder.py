"""Transformer decoder over camera and LiDAR tokens: post-norm layers, one compiled body."""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpapers.cmt.attention import attention, attention_weights
from jaxpapers.layers.conv import torch_uniform
from jaxpapers.layers.norm import LayerNorm

_XAVIER = nn.initializers.xavier_uniform()
_BLOCKED = -1e30


class Attention(nn.Module):
  """Projections of multi-head attention, packed as queries | keys | values.

  Attributes:
    heads: divides the width.
    dtype: of the matrix products.
  """

  heads: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, q: jax.Array, k: jax.Array, v: jax.Array, mix) -> jax.Array:
    """q [batch, queries, width], k and v [batch, keys, width], mix(q, k, v) of [batch, *, heads, depth] -> like q."""
    width = q.shape[-1]
    if width % self.heads:
      raise ValueError(f'{self.heads} heads do not divide the width {width}.')
    kernel = self.param('in_proj_kernel', _XAVIER, (width, 3 * width)).astype(self.dtype)
    bias = self.param('in_proj_bias', nn.initializers.zeros, (3 * width,)).astype(self.dtype)

    def project(x, part):
      columns = slice(part * width, (part + 1) * width)
      y = x.astype(self.dtype) @ kernel[:, columns] + bias[columns]
      return y.reshape(*y.shape[:-1], self.heads, width // self.heads)

    mixed = mix(project(q, 0), project(k, 1), project(v, 2))
    out = nn.Dense(width, kernel_init=_XAVIER, dtype=self.dtype, name='out_proj')
    return out(mixed.reshape(*mixed.shape[:2], width)).astype(jnp.float32)


class DecoderLayer(nn.Module):
  """Self-attention, cross-attention, feed-forward; each normalised after the sum.

  Attributes:
    heads: of both attentions.
    hidden: of the feed-forward layer.
    dropout: of self-attention's probabilities and of both attentions' results. As in the published program there is
      none in cross-attention's probabilities.
    block: see `attention`.
    dtype: of the matrix products.
  """

  heads: int
  hidden: int
  dropout: float = 0.1
  block: int | None = 512
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    place: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    key_mask: jax.Array | None,
    blocked: jax.Array | None,
    train: bool,
  ) -> tuple[jax.Array, jax.Array]:
    """x [batch, queries, width] float32 -> (x, x): the carry of a scan, and its output."""

    def drop(y, name):
      return nn.Dropout(self.dropout, deterministic=not train, name=name)(y)

    def among(q, k, v):
      scores = jnp.einsum('bqhd,bkhd->bhqk', q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
      if blocked is not None:
        scores = jnp.where(blocked, _BLOCKED, scores)
      p = drop(jax.nn.softmax(scores, axis=-1), 'drop_probabilities')
      return jnp.einsum('bhqk,bkhd->bqhd', p.astype(v.dtype), v)

    def across(q, k, v):
      if self.is_mutable_collection('intermediates'):  # for figures; too large to be computed always
        self.sow('intermediates', 'cross_attention_weights', attention_weights(q, k, key_mask))
      return attention(q, k, v, key_mask, block=self.block)

    def norm(y, name):
      return LayerNorm(epsilon=1e-5, dtype=jnp.float32, name=name)(y)

    own = Attention(self.heads, self.dtype, name='self_attention')(x + place, x + place, x, among)
    x = norm(x + drop(own, 'drop_self'), 'norm_0')
    cross = Attention(self.heads, self.dtype, name='cross_attention')(x + place, keys, values, across)
    x = norm(x + drop(cross, 'drop_cross'), 'norm_1')
    width = x.shape[-1]

    def dense(features, fan_in, name):
      bias = torch_uniform(fan_in)
      return nn.Dense(features, kernel_init=_XAVIER, bias_init=bias, dtype=self.dtype, name=name)

    y = dense(width, self.hidden, 'ffn_1')(nn.relu(dense(self.hidden, width, 'ffn_0')(x)))
    x = norm(x + y.astype(jnp.float32), 'norm_2')
    return x, x


class Decoder(nn.Module):
  """Layers of one shape under a scan: parameters have the layer as their first axis.

  Source: the paper's section on the decoder and loss; the authors' code for norms and dropout.

  Attributes:
    layers: how many.
    heads: of attention.
    hidden: of the feed-forward layers.
    dropout: see DecoderLayer.
    block: keys of cross-attention at a time.
    dtype: of the matrix products; sums, norms and softmax are float32.
  """

  layers: int = 6
  heads: int = 8
  hidden: int = 1024
  dropout: float = 0.1
  block: int | None = 512
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    place: jax.Array,
    memory: jax.Array,
    memory_place: jax.Array,
    *,
    key_mask: jax.Array | None = None,
    blocked: jax.Array | None = None,
    train: bool = False,
  ) -> jax.Array:
    """Decodes queries whose content starts at zero.

    With the collection `intermediates` mutable it holds layers/cross_attention_weights, a tuple of one array [layers,
    batch, queries, tokens], mean over heads.

    Args:
      place: [batch, queries, width] position embedding of the queries.
      memory: [batch, tokens, width].
      memory_place: [batch, tokens, width], their position embedding.
      key_mask: [batch, tokens] bool, True where a token may be seen; None is everywhere.
      blocked: [queries, queries] bool, True where a query (row) may not see another; None is nowhere.
      train: applies dropout (rng stream `dropout`).

    Returns:
      [layers, batch, queries, width] float32, every layer's queries after the shared last norm.
    """
    chex.assert_rank([place, memory, memory_place], 3)
    chex.assert_equal_shape([memory, memory_place])
    if blocked is not None:
      chex.assert_shape(blocked, (place.shape[1], place.shape[1]))
    scan = nn.scan(
      DecoderLayer,
      variable_axes={'params': 0, 'intermediates': 0},
      split_rngs={'params': True, 'dropout': True},
      in_axes=nn.broadcast,
      length=self.layers,
    )
    layers = scan(self.heads, self.hidden, self.dropout, self.block, self.dtype, name='layers')
    keys = (memory + memory_place).astype(self.dtype)
    x = jnp.zeros(place.shape, jnp.float32)
    _, states = layers(x, place, keys, memory.astype(self.dtype), key_mask, blocked, train)
    return LayerNorm(epsilon=1e-5, dtype=jnp.float32, name='post_norm')(states)
