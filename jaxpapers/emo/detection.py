"""Detectors on EMO's feature maps: SSDLite and RetinaNet, as Flax modules.

SSD (Liu et al., 2016), RetinaNet and FPN (Lin et al., 2017). Anchors, targets, losses and
inference are in `detection_targets`.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpapers.emo.model import EMO
from jaxpapers.layers.conv import Conv
from jaxpapers.layers.conv_norm import ConvNorm
from jaxpapers.layers.fpn import FPN

SSD_EPS = 1e-3
SSD_MOMENTUM = 0.97


class HeadOutput(NamedTuple):
  """What a detection head says about every anchor.

  Attributes:
    logits: [batch, anchors, classes], with background last for SSDLite.
    codes: [batch, anchors, 4].
  """

  logits: jax.Array
  codes: jax.Array


def _per_anchor(x: jax.Array, values: int) -> jax.Array:
  """[batch, height, width, anchors * values] (anchor-major) -> [batch, height * width * anchors, values]."""
  return x.reshape(x.shape[0], -1, values)


def _concatenate(logits: Sequence[jax.Array], codes: Sequence[jax.Array]) -> HeadOutput:
  return HeadOutput(jnp.concatenate(logits, axis=1), jnp.concatenate(codes, axis=1))


class SSDLiteNeck(nn.Module):
  """Appends coarser levels: 1x1 to half the width, depthwise 3x3 stride 2, 1x1 to the width.

  Weights start as a truncated normal of std 0.03, the custom of the lite models.

  Attributes:
    widths: channels of the extra levels.
    dtype: of the computation; None is that of the input.
  """

  widths: Sequence[int] = (512, 256, 256, 128)
  dtype: Any = None

  @nn.compact
  def __call__(self, maps: Sequence[jax.Array], train: bool = False) -> tuple[jax.Array, ...]:
    """[batch, height, width, channels] maps, finest first -> the same, then one map for each of `widths`."""
    levels = list(maps)

    def block(name, x, **shape):
      return ConvNorm(
        **shape,
        activation=nn.relu6,
        eps=SSD_EPS,
        momentum=SSD_MOMENTUM,
        kernel_init=nn.initializers.truncated_normal(0.03),
        dtype=self.dtype,
        name=name,
      )(x, train)

    for i, width in enumerate(self.widths):
      x = block(f'reduce{i}', levels[-1], features=width // 2)
      x = block(f'down{i}', x, kernel_size=3, stride=2, depthwise=True)
      levels.append(block(f'expand{i}', x, features=width))
    return tuple(levels)


class SSDLiteHead(nn.Module):
  """For each level, separately for classes and boxes: depthwise 3x3 with norm and ReLU6, then 1x1 with bias.

  Weights start normal with std 0.001, the custom of the lite models.

  Attributes:
    classes: without background, which becomes the last class.
    per_cell: anchors of a cell.
    dtype: of the computation; None is that of the input.
  """

  classes: int
  per_cell: int = 6
  dtype: Any = None

  @nn.compact
  def __call__(self, levels: Sequence[jax.Array], train: bool = False) -> HeadOutput:
    """Levels [batch, height, width, channels], finest first -> logits [batch, anchors, classes + 1] and codes."""
    init = nn.initializers.normal(0.001)

    def predict(name, x, values):
      y = ConvNorm(
        kernel_size=3,
        depthwise=True,
        activation=nn.relu6,
        eps=SSD_EPS,
        momentum=SSD_MOMENTUM,
        kernel_init=init,
        dtype=self.dtype,
        name=f'{name}_depthwise',
      )(x, train)
      conv = Conv(
        self.per_cell * values,
        kernel_init=init,
        bias_init=nn.initializers.zeros,
        dtype=self.dtype,
        name=f'{name}_output',
      )
      return _per_anchor(conv(y), values)

    logits = [predict(f'class{i}', x, self.classes + 1) for i, x in enumerate(levels)]
    codes = [predict(f'box{i}', x, 4) for i, x in enumerate(levels)]
    return _concatenate(logits, codes)


class PyramidNeck(nn.Module):
  """RetinaNet's neck: an FPN on stages 2-4 (P3-P5) with extra levels P6 and P7.

  Attributes:
    width: channels of every level.
    extra: levels beyond the maps.
    dtype: of the computation; None is that of the input.
  """

  width: int = 256
  extra: int = 2
  dtype: Any = None

  @nn.compact
  def __call__(self, maps: Sequence[jax.Array], train: bool = False) -> tuple[jax.Array, ...]:
    """Maps, finest first -> len(maps) + extra levels."""
    del train  # nothing here differs in training
    return FPN(self.width, self.extra, self.dtype, name='fpn')(maps)


class RetinaNetHead(nn.Module):
  """Two towers of 3x3 convolutions with ReLU, shared by all levels, for classes and boxes.

  Attributes:
    classes: number of classes; every one has its own sigmoid.
    width: channels of the towers.
    depth: convolutions of a tower.
    per_cell: anchors of a cell.
    prior: probability that every anchor starts with (RetinaNet, section 4.1).
    dtype: of the computation; None is that of the input.
  """

  classes: int
  width: int = 256
  depth: int = 4
  per_cell: int = 9
  prior: float = 0.01
  dtype: Any = None

  @nn.compact
  def __call__(self, levels: Sequence[jax.Array], train: bool = False) -> HeadOutput:
    """Levels [batch, height, width, channels], finest first -> logits [batch, anchors, classes] and codes."""
    del train  # nothing here differs in training

    def conv(name, features, bias=0.0):
      return Conv(
        features,
        3,
        kernel_init=nn.initializers.normal(0.01),
        bias_init=nn.initializers.constant(bias),
        dtype=self.dtype,
        name=name,
      )

    def tower(name, values, bias):
      layers = [conv(f'{name}_tower{i}', self.width) for i in range(self.depth)]
      output = conv(f'{name}_output', self.per_cell * values, bias)

      def apply(x):
        for layer in layers:
          x = nn.relu(layer(x))
        return _per_anchor(output(x), values)

      return apply

    classify = tower('class', self.classes, -math.log((1 - self.prior) / self.prior))
    regress = tower('box', 4, 0.0)
    return _concatenate([classify(x) for x in levels], [regress(x) for x in levels])


class EmoDetector(nn.Module):
  """Backbone, neck and head.

  Attributes:
    backbone: its `features` gives the maps after stages 0-4; `norm_eval` and `frozen_stages` are its own fields.
    neck: module: (maps, train) -> levels.
    head: module: (levels, train) -> HeadOutput.
    stages: which maps (1-4) the neck gets.
  """

  backbone: EMO
  neck: nn.Module
  head: nn.Module
  stages: Sequence[int]

  def __call__(self, image: jax.Array, train: bool = False) -> HeadOutput:
    """Image [batch, height, width, 3], normalised -> HeadOutput."""
    maps = self.backbone.features(image, train)
    return self.head(self.neck([maps[stage] for stage in self.stages], train), train)


def ssdlite(
  backbone: EMO, classes: int, widths: Sequence[int] = (512, 256, 256, 128), stages: Sequence[int] = (3, 4)
) -> EmoDetector:
  """SSDLite on stages 3 and 4 with four extra levels of `widths`."""
  dtype = backbone.dtype
  return EmoDetector(backbone, SSDLiteNeck(tuple(widths), dtype), SSDLiteHead(classes, dtype=dtype), tuple(stages))


def retinanet(backbone: EMO, classes: int, width: int = 256) -> EmoDetector:
  """RetinaNet on a feature pyramid of stages 2-4."""
  dtype = backbone.dtype
  return EmoDetector(
    backbone, PyramidNeck(width, dtype=dtype), RetinaNetHead(classes, width, dtype=dtype), stages=(2, 3, 4)
  )
