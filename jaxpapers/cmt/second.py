"""SECOND's dense bird's-eye-view network (Yan et al., 2018) and the neck that brings its stages to one resolution."""

from collections.abc import Sequence

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpapers.layers.conv_norm import ConvNorm
from jaxpapers.layers.norm import BatchNorm
from jaxpapers.layers.resnet import kaiming_fan_out

EPS = 1e-3
MOMENTUM = 0.99  # PyTorch's 0.01


class SECOND(nn.Module):
  """Stages of 3x3 convolutions, the first of each strided.

  Attributes:
    widths: channels of every stage.
    strides: of every stage's first convolution.
    layers: further convolutions per stage.
  """

  widths: Sequence[int] = (128, 256)
  strides: Sequence[int] = (1, 2)
  layers: int = 5

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
    """[batch, y, x, channels] -> one map per stage, finest first."""
    chex.assert_rank(x, 4)
    maps = []
    for stage, (width, stride) in enumerate(zip(self.widths, self.strides, strict=True)):
      for i in range(1 + self.layers):
        x = _unit(width, 3, stride if i == 0 else 1, name=f'stage{stage}_{i}')(x, train)
      maps.append(x)
    return tuple(maps)


class TransposedConv(nn.Module):
  """Transposed convolution whose kernel is as large as its stride: every output pixel sees one input pixel.

  out[s i + a, s j + b] = kernel[a, b] x[i, j]; the kernel is [stride, stride, features, channels].

  Attributes:
    features: output channels.
    stride: of both axes, and side of the kernel.
  """

  features: int
  stride: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, height, width, channels] -> [batch, stride height, stride width, features]."""
    batch, height, width, channels = x.shape
    shape = (self.stride, self.stride, self.features, channels)
    kernel = self.param('kernel', kaiming_fan_out, shape, jnp.float32).astype(x.dtype)
    y = jnp.einsum('nhwi,aboi->nhawbo', x, kernel)
    return y.reshape(batch, height * self.stride, width * self.stride, self.features)


class SECONDFPN(nn.Module):
  """Every stage upsampled to the resolution of the first, and all concatenated.

  A stage that comes out larger, because a side was odd before its stride, is cut at the end.

  Attributes:
    widths: channels that every stage contributes.
    strides: upsampling of every stage.
  """

  widths: Sequence[int] = (256, 256)
  strides: Sequence[int] = (1, 2)

  @nn.compact
  def __call__(self, maps: Sequence[jax.Array], train: bool = False) -> jax.Array:
    """Maps [batch, ceil(y / stride), ceil(x / stride), channels] -> [batch, y, x, sum(widths)]."""
    outputs = []
    for i, (x, width, stride) in enumerate(zip(maps, self.widths, self.strides, strict=True)):
      if stride == 1:
        y = _unit(width, 1, name=f'level{i}')(x, train)
      else:
        y = _Upsample(width, stride, name=f'level{i}')(x, train)
      outputs.append(y)
    height, width = outputs[0].shape[1:3]
    for y, stride in zip(outputs, self.strides, strict=True):
      if not (height <= y.shape[1] < height + stride and width <= y.shape[2] < width + stride):
        raise ValueError(f'Stages of {[y.shape[1:3] for y in outputs]} cells do not meet in one resolution.')
    return jnp.concatenate([y[:, :height, :width] for y in outputs], -1)


class _Upsample(nn.Module):
  features: int
  stride: int

  @nn.compact
  def __call__(self, x, train=False):
    x = TransposedConv(self.features, self.stride, name='conv')(x)
    return nn.relu(BatchNorm(EPS, MOMENTUM, name='norm')(x, not train))


def _unit(features, kernel_size, stride=1, *, name):
  return ConvNorm(features, kernel_size, stride, eps=EPS, momentum=MOMENTUM, kernel_init=kaiming_fan_out, name=name)
