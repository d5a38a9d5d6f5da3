"""Deformable pixel decoder of Mask2Former."""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpapers.layers.conv import Conv
from jaxpapers.layers.norm import LayerNorm
from jaxpapers.ops import resize
from jaxpapers.reft.deformable import DeformableAttention, Sizes
from jaxpapers.reft.positions import reference_points, sine_embedding

_XAVIER = nn.initializers.xavier_uniform()


class Pyramid(NamedTuple):
  """What the pixel decoder gives.

  Attributes:
    levels: coarsest first, [batch, h, w, width] at strides 32, 16, 8.
    mask_features: [batch, height / 4, width / 4, mask width].
    projected: the input projections of the same levels, before the encoder.
  """

  levels: tuple[jax.Array, ...]
  mask_features: jax.Array
  projected: tuple[jax.Array, ...]


class FeedForward(nn.Module):
  """Two linear maps with ReLU between, added and normalised.

  Attributes:
    hidden: width between.
  """

  hidden: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., width] -> the same shape."""
    y = nn.relu(nn.Dense(self.hidden, kernel_init=_XAVIER, name='linear1')(x))
    y = nn.Dense(x.shape[-1], kernel_init=_XAVIER, name='linear2')(y)
    return LayerNorm(epsilon=1e-5, name='norm')(x + y)


class EncoderLayer(nn.Module):
  """Deformable self-attention over all levels, then a feed-forward layer; both normalised after the sum.

  Attributes:
    heads: of attention.
    hidden: of the feed-forward layer.
    levels: of the pyramid.
    points: per head and level.
  """

  heads: int
  hidden: int
  levels: int
  points: int

  @nn.compact
  def __call__(self, x: jax.Array, position: jax.Array, reference: jax.Array, sizes: Sizes) -> jax.Array:
    """tokens [batch, tokens, width], their positions and reference points -> tokens."""
    attention = DeformableAttention(self.heads, self.levels, self.points, name='self_attn')
    x = LayerNorm(epsilon=1e-5, name='norm1')(x + attention(x + position, reference, x, sizes))
    return FeedForward(self.hidden, name='ffn')(x)


class PixelDecoder(nn.Module):
  """Input projections, deformable encoder over three levels, and one pyramid step to stride 4.

  Source: Mask2Former (arXiv 2112.01527) and its code.

  Attributes:
    width: of tokens.
    mask_width: of the mask features.
    heads: of attention.
    hidden: of the feed-forward layers.
    layers: of the encoder.
    points: per head and level.
    groups: of the group norms.
    patches: see `layers.conv.conv`; for small maps inside a scan.
  """

  width: int = 256
  mask_width: int = 256
  heads: int = 8
  hidden: int = 1024
  layers: int = 6
  points: int = 4
  groups: int = 32
  patches: bool = False

  def _norm(self, name):
    return nn.GroupNorm(self.groups, epsilon=1e-5, use_fast_variance=False, name=name)

  @nn.compact
  def __call__(self, maps: Sequence[jax.Array]) -> Pyramid:
    """Maps of the backbone, finest (stride 4) first, [batch, h, w, channels] -> Pyramid."""
    if len(maps) < 2:
      raise ValueError('The pixel decoder needs a finest map and at least one coarser one.')
    chex.assert_rank(list(maps), 4)
    coarse = maps[:0:-1]
    sizes = [m.shape[1:3] for m in coarse]
    embedding = self.param('level_embed', nn.initializers.normal(1.0), (len(coarse), self.width))
    tokens, positions, projected = [], [], []
    for level, (features, size) in enumerate(zip(coarse, sizes, strict=True)):
      y = Conv(self.width, 1, kernel_init=_XAVIER, bias_init=nn.initializers.zeros, name=f'input_proj{level}')(features)
      y = self._norm(f'input_norm{level}')(y)
      projected.append(y)
      tokens.append(y.reshape(y.shape[0], -1, self.width))
      sine = jnp.asarray(sine_embedding(*size, self.width)).reshape(-1, self.width)
      positions.append(sine + embedding[level])
    x, position = jnp.concatenate(tokens, axis=1), jnp.concatenate(positions)[None]
    reference = jnp.asarray(reference_points(sizes))[None]

    def layer(module, x, _):
      return module(x, position, reference, sizes), None

    scan = nn.scan(layer, variable_axes={'params': 0}, split_rngs={'params': True}, length=self.layers)
    encoder = EncoderLayer(self.heads, self.hidden, len(coarse), self.points, name='encoder')
    if self.layers:
      x, _ = scan(encoder, x, None)
    ends = [sum(h * w for h, w in sizes[: i + 1]) for i in range(len(sizes) - 1)]
    levels = tuple(
      part.reshape(part.shape[0], *size, self.width)
      for part, size in zip(jnp.split(x, ends, axis=1), sizes, strict=True)
    )
    lateral = Conv(self.width, 1, use_bias=False, kernel_init=_XAVIER, name='lateral')(maps[0])
    y = self._norm('lateral_norm')(lateral) + resize.bilinear(levels[-1], maps[0].shape[1:3])
    y = Conv(self.width, 3, use_bias=False, kernel_init=_XAVIER, patches=self.patches, name='output')(y)
    y = nn.relu(self._norm('output_norm')(y))
    masks = Conv(self.mask_width, 1, kernel_init=_XAVIER, bias_init=nn.initializers.zeros, name='mask_features')(y)
    return Pyramid(levels, masks, tuple(projected))
