"""VoVNetV2 (CenterMask, arXiv 1911.06667): one-shot aggregation blocks with effective squeeze-and-excite."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpapers.layers.conv import Conv
from jaxpapers.layers.conv_norm import ConvNorm
from jaxpapers.layers.resnet import kaiming_fan_out


def ceil_max_pool(x: jax.Array) -> jax.Array:
  """3x3 maxima with stride 2, no padding, "ceil mode": a last window that overruns takes what there is of it.

  Args:
    x: [batch, height, width, channels], sides of at least 2.

  Returns:
    [batch, ceil((height - 3) / 2) + 1, likewise for width, channels].
  """
  after = [(0, (-(-(size - 3) // 2)) * 2 + 3 - size) for size in x.shape[1:3]]
  return nn.max_pool(x, (3, 3), (2, 2), after)


class EffectiveSqueezeExcite(nn.Module):
  """Scales channels by a piecewise linear gate of their global means; one full-width layer, no bottleneck."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, height, width, channels] -> the same shape."""
    pooled = x.astype(jnp.float32).mean((1, 2), keepdims=True).astype(x.dtype)
    gate = Conv(x.shape[-1], name='fc')(pooled)
    return x * (nn.relu6(gate + 3.0) / 6.0)


class AggregationBlock(nn.Module):
  """A chain of 3x3 convolutions whose input and outputs are all concatenated once, at its end.

  Attributes:
    inner: channels of the chain.
    features: output channels.
    layers: convolutions of the chain.
    identity: adds the input after the gate.
  """

  inner: int
  features: int
  layers: int = 5
  identity: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """[batch, height, width, channels] -> [batch, height, width, features]."""
    maps = [x]
    for i in range(self.layers):
      maps.append(_unit(self.inner, 3, name=f'layer{i}')(maps[-1], train))
    y = _unit(self.features, 1, name='concat')(jnp.concatenate(maps, -1), train)
    y = EffectiveSqueezeExcite(name='ese')(y)
    return y + x if self.identity else y


class VoVNet(nn.Module):
  """The feature maps of a VoVNetV2; no classifier. The defaults are V-99-eSE.

  Source: VoVNetV2 (Lee and Park, CVPR 2020).

  Attributes:
    stem: channels of the three stem convolutions, strides 2, 1 and 2.
    blocks: aggregation blocks of stages 2 to 5.
    inner: channels inside the blocks of every stage.
    outputs: channels of every stage's map.
    layers: convolutions per block.
    remat: recompute every block's activations in the backward pass: less memory.
  """

  stem: Sequence[int] = (64, 64, 128)
  blocks: Sequence[int] = (1, 3, 9, 3)
  inner: Sequence[int] = (128, 160, 192, 224)
  outputs: Sequence[int] = (256, 512, 768, 1024)
  layers: int = 5
  remat: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
    """[batch, height, width, 3] -> one map per stage, at 1/4, 1/8, 1/16 and 1/32 of the size.

    Args:
      x: normalised images.
      train: batch norm uses the batch's statistics, and updates the running ones.
    """
    for i, (features, stride) in enumerate(zip(self.stem, (2, 1, 2), strict=True)):
      x = _unit(features, 3, stride, name=f'stem{i + 1}')(x, train)
    block = nn.remat(AggregationBlock, static_argnums=(2,)) if self.remat else AggregationBlock
    maps = []
    for stage, count in enumerate(self.blocks):
      if stage:
        x = ceil_max_pool(x)
      for i in range(count):
        name = f'stage{stage + 2}_{i + 1}'
        x = block(self.inner[stage], self.outputs[stage], self.layers, identity=i > 0, name=name)(x, train)
      maps.append(x)
    return tuple(maps)


VoVNet99 = VoVNet
VoVNet57 = functools.partial(VoVNet, blocks=(1, 1, 4, 3))


def _unit(features, kernel_size, stride=1, *, name):
  return ConvNorm(features, kernel_size, stride, kernel_init=kaiming_fan_out, name=name)
