"""Masked-attention transformer decoder of Mask2Former."""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpapers.layers.norm import LayerNorm
from jaxpapers.ops import resize
from jaxpapers.reft.pixel_decoder import FeedForward
from jaxpapers.reft.positions import sine_embedding

_XAVIER = nn.initializers.xavier_uniform()


class Predictions(NamedTuple):
  """Predictions from the initial queries and after every layer, stacked; the last is the model's.

  Attributes:
    logits: [layers + 1, batch, queries, classes + 1]; the last class is "no object".
    masks: [layers + 1, batch, queries, h, w] mask logits at stride 4.
    queries: [batch, queries, width], after the last layer, before the final norm.
  """

  logits: jax.Array
  masks: jax.Array
  queries: jax.Array


def open_blocked_rows(blocked: jax.Array) -> jax.Array:
  """A query that may look nowhere may look everywhere. [..., queries, keys] bool, True is blocked."""
  return blocked & ~jnp.all(blocked, axis=-1, keepdims=True)


def attention_mask(masks: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Where the next layer must not look: where the predicted mask, at the size of its level, is below one half.

  Args:
    masks: [batch, queries, h, w] logits.
    size: (height, width) of the level.

  Returns:
    [batch, queries, height * width] bool, True is blocked; no gradient flows.
  """
  small = resize.bilinear(jax.lax.stop_gradient(masks).transpose(0, 2, 3, 1), size)
  return (small < 0.0).reshape(small.shape[0], -1, small.shape[-1]).transpose(0, 2, 1)


class Attention(nn.Module):
  """Multi-head attention with separate inputs for queries, keys and values.

  Attributes:
    heads: divides the width.
  """

  heads: int

  @nn.compact
  def __call__(self, q: jax.Array, k: jax.Array, v: jax.Array, blocked: jax.Array | None = None) -> jax.Array:
    """q [batch, queries, width], k and v [batch, keys, width], blocked [batch, queries, keys] -> like q."""
    width = q.shape[-1]
    if width % self.heads:
      raise ValueError(f'{self.heads} heads do not divide the width {width}.')

    def project(x, name):
      y = nn.Dense(width, kernel_init=_XAVIER, name=name)(x)
      return y.reshape(*y.shape[:-1], self.heads, width // self.heads)

    q, k, v = project(q, 'query'), project(k, 'key'), project(v, 'value')
    scores = jnp.einsum('bqhd,bkhd->bhqk', q / jnp.sqrt(width // self.heads).astype(q.dtype), k)
    if blocked is not None:
      scores = jnp.where(blocked[:, None], -jnp.inf, scores)
    mixed = jnp.einsum('bhqk,bkhd->bqhd', jax.nn.softmax(scores, axis=-1), v)
    return nn.Dense(width, kernel_init=_XAVIER, name='out')(mixed.reshape(*mixed.shape[:2], width))


class DecoderLayer(nn.Module):
  """Masked cross-attention, self-attention, feed-forward; each normalised after the sum.

  Attributes:
    heads: of attention.
    hidden: of the feed-forward layer.
  """

  heads: int
  hidden: int

  @nn.compact
  def __call__(
    self, x: jax.Array, place: jax.Array, memory: jax.Array, position: jax.Array, blocked: jax.Array
  ) -> jax.Array:
    """queries [batch, queries, width] with their positions, memory [batch, keys, width] with its own -> queries."""
    cross = Attention(self.heads, name='cross')(x + place, memory + position, memory, blocked)
    x = LayerNorm(epsilon=1e-5, name='cross_norm')(x + cross)
    own = Attention(self.heads, name='self')(x + place, x + place, x)
    x = LayerNorm(epsilon=1e-5, name='self_norm')(x + own)
    return FeedForward(self.hidden, name='ffn')(x)


class MaskHead(nn.Module):
  """Three linear maps with ReLU between: a mask embedding for every query.

  Attributes:
    width: of the output; the maps before keep the input's.
  """

  width: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., in] -> [..., width]."""
    for index, width in enumerate((x.shape[-1], x.shape[-1], self.width)):
      x = nn.Dense(width, name=f'layer{index}')(x)
      x = nn.relu(x) if index < 2 else x
    return x


class TransformerDecoder(nn.Module):
  """Object queries look at the levels in turn, each only where its last mask is.

  The prediction heads are shared by all layers. `classify` and `mask_logits` are methods of their own, so that queries
  changed after the last layer can be read again.

  Source: Mask2Former (arXiv 2112.01527), masked attention.

  Attributes:
    classifier: module [..., width] -> [..., classes + 1].
    num_queries: object queries.
    width: of queries and tokens.
    mask_width: of the mask features.
    heads: of attention.
    hidden: of the feed-forward layers.
    num_layers: layer i looks at level i modulo their number.
    num_levels: of the pyramid.
  """

  classifier: nn.Module
  num_queries: int = 100
  width: int = 256
  mask_width: int = 256
  heads: int = 8
  hidden: int = 2048
  num_layers: int = 9
  num_levels: int = 3

  def setup(self):
    """Parameters and layers."""
    normal = nn.initializers.normal(1.0)
    self.query_feat = self.param('query_feat', normal, (self.num_queries, self.width))
    self.query_embed = self.param('query_embed', normal, (self.num_queries, self.width))
    self.level_embed = self.param('level_embed', normal, (self.num_levels, self.width))
    self.layers = [DecoderLayer(self.heads, self.hidden, name=f'layer{i}') for i in range(self.num_layers)]
    self.norm = LayerNorm(epsilon=1e-5, name='norm')
    self.mask_head = MaskHead(self.mask_width, name='mask_head')

  def classify(self, queries: jax.Array, *args: jax.Array) -> jax.Array:
    """Queries [..., width] -> class logits; further arguments go to the classifier."""
    return self.classifier(self.norm(queries), *args)

  def mask_logits(self, queries: jax.Array, mask_features: jax.Array) -> jax.Array:
    """Queries [batch, queries, width], features [batch, h, w, mask width] -> [batch, queries, h, w]."""
    return jnp.einsum('bqc,bhwc->bqhw', self.mask_head(self.norm(queries)), mask_features)

  def refine(self, levels: Sequence[jax.Array], mask_features: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Queries and mask logits from the start and after every layer; classes play no part in them.

    Args:
      levels: coarsest first, [batch, h, w, width].
      mask_features: [batch, h, w, mask width].

    Returns:
      [layers + 1, batch, queries, width], before the final norm, and [layers + 1, batch, queries, h, w].
    """
    if len(levels) != self.num_levels:
      raise ValueError(f'The decoder was made for {self.num_levels} levels, not {len(levels)}.')
    chex.assert_rank([*levels, mask_features], 4)
    batch = mask_features.shape[0]
    memory = [m.reshape(batch, -1, self.width) + self.level_embed[i] for i, m in enumerate(levels)]
    position = [jnp.asarray(sine_embedding(*m.shape[1:3], self.width)).reshape(1, -1, self.width) for m in levels]
    queries = [jnp.broadcast_to(self.query_feat, (batch, *self.query_feat.shape))]
    masks = [self.mask_logits(queries[0], mask_features)]
    for index, layer in enumerate(self.layers):
      level = index % self.num_levels
      blocked = open_blocked_rows(attention_mask(masks[-1], levels[level].shape[1:3]))
      queries.append(layer(queries[-1], self.query_embed, memory[level], position[level], blocked))
      masks.append(self.mask_logits(queries[-1], mask_features))
    return jnp.stack(queries), jnp.stack(masks)

  def __call__(self, levels: Sequence[jax.Array], mask_features: jax.Array, *args: jax.Array) -> Predictions:
    """As `refine`, with classes; further arguments go to the classifier."""
    queries, masks = self.refine(levels, mask_features)
    return Predictions(self.classify(queries, *args), masks, queries[-1])
