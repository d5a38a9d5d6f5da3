"""VGG11 and ResNet18 with instance norm: victims of another architecture than the one distilled for."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpapers.doorping import model
from jaxpapers.doorping.model import InstanceNorm, Outputs, flatten
from jaxpapers.layers.conv import Conv, torch_uniform
from jaxpapers.layers.resnet import BasicBlock

VICTIMS = (*model.NETWORKS, 'vgg11', 'resnet18')
_VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))
_RESNET18 = ((64, 1), (128, 2), (256, 2), (512, 2))


class _Norm(nn.Module):
  """InstanceNorm, called as the blocks of `layers.resnet` call a batch norm."""

  @nn.compact
  def __call__(self, x: jax.Array, use_running_average: bool) -> jax.Array:
    """[batch, height, width, channels] -> the same shape."""
    del use_running_average
    return InstanceNorm(name='instance')(x)


def _linear(features: int, fan_in: int, name: str) -> nn.Dense:
  init = torch_uniform(fan_in)
  return nn.Dense(features, kernel_init=init, bias_init=init, name=name)


class _Victim(nn.Module):
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, height, width, channels] -> logits [batch, classes]."""
    return self.outputs(x).logits

  def penultimate(self, x: jax.Array) -> jax.Array:
    """[batch, height, width, channels] -> what the last linear layer sees."""
    return self.outputs(x).hidden


class VGG11(_Victim):
  """Eight 3x3 convolutions with instance norm and ReLU, five 2x2 max poolings, one linear layer.

  Attributes:
    classes: number of classes.
    patches: see `layers.conv.conv`.
  """

  classes: int
  patches: bool = False

  @nn.compact
  def outputs(self, x: jax.Array) -> Outputs:
    """[batch, height, width, channels], 32 pixels or more -> Outputs; `hidden` is `flat`."""
    chex.assert_rank(x, 4)
    if min(x.shape[1:3]) < 32:
      raise ValueError(f'VGG11 takes images of 32 pixels or more, not {x.shape[1]} x {x.shape[2]}.')
    number = 0
    for stage in _VGG11:
      for width in stage:
        padding = 3 if number == 0 and x.shape[-1] == 1 else 1
        x = Conv(width, 3, 1, padding, patches=self.patches, name=f'conv{number}')(x)
        x = nn.relu(InstanceNorm(name=f'norm{number}')(x))
        number += 1
      x = nn.max_pool(x, (2, 2), (2, 2))
    flat = flatten(x)
    return Outputs(flat, flat, _linear(self.classes, flat.shape[1], 'logits')(flat))


class ResNet18(_Victim):
  """Four stages of two basic blocks with instance norm, a 3x3 stem, and two linear layers.

  Attributes:
    classes: number of classes.
    patches: see `layers.conv.conv`.
  """

  classes: int
  patches: bool = False

  @nn.compact
  def outputs(self, x: jax.Array) -> Outputs:
    """[batch, height, width, channels] -> Outputs; `flat` is the mean over the last map."""
    chex.assert_rank(x, 4)
    conv = functools.partial(Conv, use_bias=False, patches=self.patches)
    x = nn.relu(InstanceNorm(name='stem_norm')(conv(64, 3, name='stem_conv')(x)))
    for stage, (width, stride) in enumerate(_RESNET18):
      for block in range(2):
        first = stride if block == 0 else 1
        x = BasicBlock(width, first, conv=conv, norm=_Norm, name=f'stage{stage}_block{block}')(x)
    flat = jnp.mean(x, (1, 2))
    hidden = nn.relu(_linear(512, flat.shape[1], 'hidden')(flat))
    return Outputs(flat, hidden, _linear(self.classes, 512, 'logits')(hidden))


def victim_network(name: str, classes: int, **options: Any) -> nn.Module:
  """The network called `name`, one of VICTIMS; options as `model.network`, of which these two take `patches` alone.

  Raises:
    ValueError: for an unknown name.
  """
  known: dict[str, Callable[..., nn.Module]] = {'vgg11': VGG11, 'resnet18': ResNet18}
  if name in known:
    return known[name](classes, **options)
  if name not in VICTIMS:
    raise ValueError(f'Unknown network {name!r}; known: {", ".join(VICTIMS)}.')
  return model.network(name, classes, **options)
