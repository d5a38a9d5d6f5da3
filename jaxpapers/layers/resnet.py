"""ResNet feature extractors (arXiv 1512.03385), with torchvision's names, and its 3x3 as the strided one ("v1.5").

The convolution, norm and pooling are arguments: the same network runs on images and on other grids.
"""

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from jaxpapers.layers.conv import Conv, Initializer
from jaxpapers.layers.norm import BatchNorm

ModuleDef = Any
kaiming_fan_out: Initializer = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
"""What torchvision initialises a ResNet's convolutions with."""


def max_pool(x: jax.Array, window: int = 3, stride: int = 2, padding: int = 1) -> jax.Array:
  """[batch, height, width, channels] -> maxima of the windows; padding never wins."""
  return nn.max_pool(x, (window, window), (stride, stride), ((padding, padding), (padding, padding)))


class BasicBlock(nn.Module):
  """Two 3x3 convolutions and a shortcut: ResNet-18 and 34.

  Attributes:
    features: output channels.
    stride: of the first convolution.
    conv: module made by conv(features, kernel_size, stride, name=...), without bias, half the kernel as padding.
    norm: module made by norm(name=...), called with (x, use_running_average).
  """

  features: int
  stride: int = 1
  conv: ModuleDef = functools.partial(Conv, use_bias=False, kernel_init=kaiming_fan_out)
  norm: ModuleDef = BatchNorm

  expansion = 1

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """[..., channels] -> [..., features]."""
    y = self.conv(self.features, 3, self.stride, name='conv1')(x)
    y = nn.relu(self.norm(name='bn1')(y, not train))
    y = self.conv(self.features, 3, 1, name='conv2')(y)
    y = self.norm(name='bn2')(y, not train)
    return nn.relu(y + _shortcut(self, x, self.features, train))


class Bottleneck(nn.Module):
  """1x1, 3x3 and 1x1 convolutions and a shortcut: ResNet-50, 101 and 152. Other attributes as `BasicBlock`.

  Attributes:
    output: channels of the result; None is 4 * features.
  """

  features: int
  stride: int = 1
  conv: ModuleDef = functools.partial(Conv, use_bias=False, kernel_init=kaiming_fan_out)
  norm: ModuleDef = BatchNorm
  output: int | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """[..., channels] -> [..., output]."""
    width = self.output or 4 * self.features
    y = self.conv(self.features, 1, 1, name='conv1')(x)
    y = nn.relu(self.norm(name='bn1')(y, not train))
    y = self.conv(self.features, 3, self.stride, name='conv2')(y)
    y = nn.relu(self.norm(name='bn2')(y, not train))
    y = self.conv(width, 1, 1, name='conv3')(y)
    y = self.norm(name='bn3')(y, not train)
    return nn.relu(y + _shortcut(self, x, width, train))


def _shortcut(block: nn.Module, x: jax.Array, features: int, train: bool) -> jax.Array:
  """The input itself, or projected by a strided 1x1 convolution where the shape changes."""
  if block.stride == 1 and x.shape[-1] == features:
    return x
  projected = block.conv(features, 1, block.stride, name='downsample_conv')(x)
  return block.norm(name='downsample_bn')(projected, not train)


class ResNet(nn.Module):
  """The feature maps of a ResNet; no classifier.

  Attributes:
    stage_sizes: blocks per stage.
    block: BasicBlock or Bottleneck.
    width: channels of the stem and of the first stage's blocks; each further stage doubles them.
    widths: channels of every stage's blocks, instead.
    outputs: channels of every stage's map, for Bottleneck; None: its default.
    conv: see BasicBlock.
    norm: see BasicBlock.
    pool: the pooling after the stem, halving the map.
    remat: recompute every block's activations in the backward pass: less memory.
  """

  stage_sizes: Sequence[int] = (2, 2, 2, 2)
  block: ModuleDef = BasicBlock
  width: int = 64
  widths: Sequence[int] | None = None
  outputs: Sequence[int] | None = None
  conv: ModuleDef = functools.partial(Conv, use_bias=False, kernel_init=kaiming_fan_out)
  norm: ModuleDef = BatchNorm
  pool: Callable[[jax.Array], jax.Array] = max_pool
  remat: bool = False

  @property
  def halvings(self) -> int:
    """How often the last map's sides were halved."""
    return 1 + len(self.stage_sizes)

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
    """[..., height, width, 3] -> one map per stage, at 1/4, 1/8, ... of the size."""
    x = self.conv(self.width, 7, 2, name='conv1')(x)
    x = self.pool(nn.relu(self.norm(name='bn1')(x, not train)))
    block = nn.remat(self.block, static_argnums=(2,)) if self.remat else self.block
    widths = self.widths or [self.width * 2**stage for stage in range(len(self.stage_sizes))]
    maps = []
    for stage, blocks in enumerate(self.stage_sizes):
      output = {'output': self.outputs[stage]} if self.outputs else {}
      for index in range(blocks):
        stride = 2 if stage and not index else 1
        name = f'layer{stage + 1}_{index}'
        x = block(widths[stage], stride, conv=self.conv, norm=self.norm, **output, name=name)(x, train)
      maps.append(x)
    return tuple(maps)


ResNet18 = functools.partial(ResNet, (2, 2, 2, 2), BasicBlock)
ResNet34 = functools.partial(ResNet, (3, 4, 6, 3), BasicBlock)
ResNet50 = functools.partial(ResNet, (3, 4, 6, 3), Bottleneck)
ResNet101 = functools.partial(ResNet, (3, 4, 23, 3), Bottleneck)


def torchvision_key(path: Sequence[str]) -> str:
  """torchvision's name of a leaf of a ResNet, e.g. ('layer1_0', 'bn1', 'var') -> 'layer1.0.bn1.running_var'.

  Args:
    path: of the leaf inside the ResNet, without the collection.
  """
  *modules, leaf = path
  leaves = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}
  modules = [re.sub(r'^layer(\d+)_(\d+)$', r'layer\1.\2', m) for m in modules]
  modules = [{'downsample_conv': 'downsample.0', 'downsample_bn': 'downsample.1'}.get(m, m) for m in modules]
  return '.'.join([*modules, leaves[leaf]])
