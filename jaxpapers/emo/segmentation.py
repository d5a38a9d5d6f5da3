"""Segmentation heads on EMO's feature maps, as Flax modules, and their loss.

DeepLabv3 (Chen et al., 2017), PSPNet (Zhao et al., 2017), FCN (Long et al., 2015), Semantic FPN (Kirillov et al.,
2019), SegFormer's all-MLP head (Xie et al., 2021), in the form of the authors' configs.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpapers.emo.model import EMO
from jaxpapers.layers.conv import Conv
from jaxpapers.layers.conv_norm import ConvNorm
from jaxpapers.layers.fpn import FPN
from jaxpapers.ops import resize
from jaxpapers.ops import segmentation as segmentation_ops

AUXILIARY_WEIGHT = 0.4


class SegmentationOutput(NamedTuple):
  """Logits of a segmenter, at the resolution of its head.

  Attributes:
    logits: [batch, height / s, width / s, classes].
    auxiliary: [batch, height / 16, width / 16, classes] in training, where the model has such a head; else None.
  """

  logits: jax.Array
  auxiliary: jax.Array | None


class Classify(nn.Module):
  """Dropout of whole channels, then a 1x1 convolution to classes.

  Attributes:
    classes: number of classes.
    dropout: probability that a channel is dropped.
    dtype: of the computation; None is that of the input.
  """

  classes: int
  dropout: float = 0.1
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """[batch, height, width, channels] -> [batch, height, width, classes]."""
    x = nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)(x)
    return Conv(
      self.classes,
      kernel_init=nn.initializers.normal(0.01),
      bias_init=nn.initializers.zeros,
      dtype=self.dtype,
      name='conv',
    )(x)


def _block(name: str, width: int, kernel_size: int, dtype: Any, dilation: int = 1) -> ConvNorm:
  return ConvNorm(
    features=width,
    kernel_size=kernel_size,
    dilation=dilation,
    activation=nn.relu,
    eps=1e-5,
    kernel_init=nn.initializers.he_normal(),
    dtype=dtype,
    name=name,
  )


class ASPPHead(nn.Module):
  """DeepLabv3: the map pooled to one pixel, and convolved at several dilations, side by side.

  Attributes:
    classes: number of classes.
    width: channels of every branch.
    dilations: of the branches; 1 is a 1x1 convolution, others are 3x3.
    dropout: before the classifier.
    dtype: of the computation; None is that of the input.
  """

  classes: int
  width: int = 256
  dilations: Sequence[int] = (1, 12, 24, 36)
  dropout: float = 0.1
  dtype: Any = None

  @nn.compact
  def __call__(self, maps: Sequence[jax.Array], train: bool = False) -> jax.Array:
    """The last of `maps` [batch, height, width, channels] -> logits [batch, height, width, classes]."""
    x = maps[-1]
    pooled = _block('pool', self.width, 1, self.dtype)(x.mean(axis=(1, 2), keepdims=True), train)
    branches = [resize.bilinear(pooled, x.shape[1:3])]
    for i, dilation in enumerate(self.dilations):
      kernel = 1 if dilation == 1 else 3
      branches.append(_block(f'branch{i}', self.width, kernel, self.dtype, dilation)(x, train))
    y = _block('merge', self.width, 3, self.dtype)(jnp.concatenate(branches, axis=-1), train)
    return Classify(self.classes, self.dropout, self.dtype, name='classify')(y, train)


class PSPHead(nn.Module):
  """PSPNet: the map beside itself pooled to grids of several sizes.

  Attributes:
    classes: number of classes.
    width: channels of every grid.
    grids: sides of the grids.
    dropout: before the classifier.
    dtype: of the computation; None is that of the input.
  """

  classes: int
  width: int = 256
  grids: Sequence[int] = (1, 2, 3, 6)
  dropout: float = 0.1
  dtype: Any = None

  @nn.compact
  def __call__(self, maps: Sequence[jax.Array], train: bool = False) -> jax.Array:
    """The last of `maps` [batch, height, width, channels] -> logits [batch, height, width, classes]."""
    x = maps[-1]
    parts = [x]
    for i, side in enumerate(self.grids):
      pooled = resize.adaptive_mean(x, (side, side)).astype(x.dtype)
      parts.append(resize.bilinear(_block(f'grid{i}', self.width, 1, self.dtype)(pooled, train), x.shape[1:3]))
    y = _block('merge', self.width, 3, self.dtype)(jnp.concatenate(parts, axis=-1), train)
    return Classify(self.classes, self.dropout, self.dtype, name='classify')(y, train)


class FCNHead(nn.Module):
  """One 3x3 convolution and the classifier, on the stage-3 map: the auxiliary head of training.

  Attributes:
    classes: number of classes.
    width: channels.
    stage: which map (1-4).
    dropout: before the classifier.
    dtype: of the computation; None is that of the input.
  """

  classes: int
  width: int = 256
  stage: int = 3
  dropout: float = 0.1
  dtype: Any = None

  @nn.compact
  def __call__(self, maps: Sequence[jax.Array], train: bool = False) -> jax.Array:
    """Maps of stages 1-4 -> logits [batch, height, width, classes] at the resolution of `stage`."""
    x = _block('conv', self.width, 3, self.dtype)(maps[self.stage - 1], train)
    return Classify(self.classes, self.dropout, self.dtype, name='classify')(x, train)


class SemanticFPNHead(nn.Module):
  """Semantic FPN: each pyramid level convolved and upsampled step by step to the finest, then summed.

  Attributes:
    classes: number of classes.
    width: channels of the pyramid.
    scale_width: channels of the convolutions of a level.
    dropout: before the classifier.
    dtype: of the computation; None is that of the input.
  """

  classes: int
  width: int = 256
  scale_width: int = 128
  dropout: float = 0.1
  dtype: Any = None

  @nn.compact
  def __call__(self, maps: Sequence[jax.Array], train: bool = False) -> jax.Array:
    """Maps finest first -> logits [batch, height / 4, width / 4, classes]."""
    size = maps[0].shape[1:3]
    total = 0
    for level, x in enumerate(FPN(self.width, dtype=self.dtype, name='fpn')(maps)):
      for step in range(max(1, level)):
        x = _block(f'level{level}_{step}', self.scale_width, 3, self.dtype)(x, train)
        if level:
          x = resize.bilinear(x, (2 * x.shape[1], 2 * x.shape[2]))
      total = total + resize.bilinear(x, size)
    return Classify(self.classes, self.dropout, self.dtype, name='classify')(total, train)


class SegFormerHead(nn.Module):
  """SegFormer: every map by a 1x1 convolution to one width, resized to the finest, side by side, mixed.

  Attributes:
    classes: number of classes.
    width: channels.
    dropout: before the classifier.
    dtype: of the computation; None is that of the input.
  """

  classes: int
  width: int = 256
  dropout: float = 0.1
  dtype: Any = None

  @nn.compact
  def __call__(self, maps: Sequence[jax.Array], train: bool = False) -> jax.Array:
    """Maps finest first -> logits [batch, height / 4, width / 4, classes]."""
    size = maps[0].shape[1:3]
    parts = [resize.bilinear(_block(f'map{i}', self.width, 1, self.dtype)(x, train), size) for i, x in enumerate(maps)]
    y = _block('fuse', self.width, 1, self.dtype)(jnp.concatenate(parts, axis=-1), train)
    return Classify(self.classes, self.dropout, self.dtype, name='classify')(y, train)


class EmoSegmenter(nn.Module):
  """Backbone, head and, in training, an auxiliary head.

  Attributes:
    backbone: its `features` gives the maps after stages 0-4; `norm_eval` and `frozen_stages` are its own fields.
    head: module: (maps of stages 1-4, train) -> logits.
    auxiliary: another one, or None.
  """

  backbone: EMO
  head: nn.Module
  auxiliary: nn.Module | None = None

  def __call__(self, image: jax.Array, train: bool = False) -> SegmentationOutput:
    """Image [batch, height, width, 3], normalised -> SegmentationOutput."""
    maps = self.backbone.features(image, train)[1:]
    logits = self.head(maps, train)
    auxiliary = None
    if self.auxiliary is not None and (train or self.is_initializing()):
      auxiliary = self.auxiliary(maps, train)
    return SegmentationOutput(logits, auxiliary)


HEADS: Mapping[str, type[nn.Module]] = {
  'deeplabv3': ASPPHead,
  'pspnet': PSPHead,
  'semantic_fpn': SemanticFPNHead,
  'segformer': SegFormerHead,
}


def segmenter(backbone: EMO, head: str, classes: int, auxiliary: bool, **options: Any) -> EmoSegmenter:
  """A segmenter by the name of its head.

  Args:
    backbone: see EmoSegmenter.
    head: a key of HEADS.
    classes: number of classes.
    auxiliary: add the FCN head on stage 3, as DeepLabv3 and PSPNet are trained.
    **options: fields of the head, such as width.

  Raises:
    ValueError: for an unknown head, listing the known ones.
  """
  if head not in HEADS:
    raise ValueError(f'Unknown segmentation head {head!r}; known: {", ".join(HEADS)}.')
  dtype = backbone.dtype
  second = None
  if auxiliary:
    second = FCNHead(classes, **{k: v for k, v in options.items() if k in ('width', 'dropout')}, dtype=dtype)
  return EmoSegmenter(backbone, HEADS[head](classes, **options, dtype=dtype), second)


def segmentation_loss(output: SegmentationOutput, labels: jax.Array) -> jax.Array:
  """Cross-entropy of logits resized to the labels; the auxiliary head's counts 0.4.

  The mean runs over all pixels, ignored ones included.

  Args:
    output: of the segmenter.
    labels: [batch, height, width] int, 255 where ignored.
  """
  total = pixel_loss(output.logits, labels)
  if output.auxiliary is not None:
    total += AUXILIARY_WEIGHT * pixel_loss(output.auxiliary, labels)
  return total


def pixel_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Cross-entropy of one head, see `segmentation_loss`."""
  chex.assert_rank([logits, labels], [4, 3])
  return segmentation_ops.pixel_cross_entropy(full_size(logits, labels.shape[1:3]), labels)


def full_size(logits: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Logits [batch, height, width, classes] in float32, bilinearly resized to `size`."""
  return resize.bilinear(logits.astype(jnp.float32), size)
