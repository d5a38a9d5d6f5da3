"""Networks with exits: a backbone in segments, exit layers on its taps, and the variants by name."""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpapers.predictive_exit.exits import BofExit, BofExits, PooledExits
from jaxpapers.predictive_exit.resnet import DEPTHS34, WIDTHS, ResNet
from jaxpapers.predictive_exit.vgg import POOL, VGG19, Carry, ConvNet, scaled


class Classifier(nn.Module):
  """A backbone without exits: the plain network, and the first training step.

  Attributes:
    backbone: `ConvNet` or `ResNet`.
    exits: taps of the backbone.
    image_size: side of the images.
  """

  backbone: nn.Module
  exits: int
  image_size: int

  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """[batch, height, width, channels] -> logits [batch, classes]."""
    check_images(images, self.image_size)
    carry = self.backbone.start(images)
    for k in range(self.exits + 1):
      carry = self.backbone.segment(carry, k, train)
    return self.backbone.classify(carry)


class MultiExit(nn.Module):
  """A backbone with an exit behind every tap; the last exit is the backbone's own classifier.

  Attributes:
    backbone: `ConvNet` or `ResNet`.
    heads: `BofExits` or `PooledExits`.
    exits: number of exit layers, E; the classifier is not counted.
    image_size: side of the images.
    freeze_backbone: training leaves the backbone and its running statistics alone.
  """

  backbone: nn.Module
  heads: nn.Module
  exits: int
  image_size: int
  freeze_backbone: bool = False

  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """All exits in one pass.

    Args:
      images: [batch, height, width, channels].
      train: batch norm uses and updates the statistics of the batch, unless the backbone is frozen.

    Returns:
      [batch, exits + 1, classes] logits, float32 or better.
    """
    taps, logits = self.taps(images, train)
    return jnp.concatenate([self.heads(taps), logits[:, None]], axis=1)

  def taps(self, images: jax.Array, train: bool = False) -> tuple[list[jax.Array], jax.Array]:
    """(what every exit reads, logits of the classifier)."""
    train = train and not self.freeze_backbone
    taps, carry = [], self.start(images)
    for k in range(self.exits + 1):
      carry = self.backbone.segment(carry, k, train)
      taps.append(jax.lax.stop_gradient(carry[0]) if self.freeze_backbone else carry[0])
    logits = self.backbone.classify(carry)
    return taps[: self.exits], jax.lax.stop_gradient(logits) if self.freeze_backbone else logits

  def start(self, images: jax.Array) -> Carry:
    """The carry before the first segment."""
    check_images(images, self.image_size)
    return self.backbone.start(images)

  def segment(self, carry: Carry, k: int) -> Carry:
    """From tap k - 1 to tap k in evaluation mode; k = exits is what remains before the classifier."""
    return self.backbone.segment(carry, k)

  def head(self, carry: Carry, k: int) -> jax.Array:
    """Logits [batch, classes] of exit k on the carry behind segment k; k = exits is the classifier."""
    return self.backbone.classify(carry) if k == self.exits else self.heads.one(carry[0], k)

  def plain(self, images: jax.Array) -> jax.Array:
    """[batch, height, width, channels] -> logits [batch, classes] of the classifier, no exit run."""
    carry = self.start(images)
    for k in range(self.exits + 1):
      carry = self.backbone.segment(carry, k)
    return self.backbone.classify(carry)


def classifier(model: MultiExit) -> Classifier:
  """The same backbone without exits, over the same parameters."""
  return Classifier(model.backbone, model.exits, model.image_size)


def check_images(images: jax.Array, size: int) -> None:
  """Refuses images of another size.

  Raises:
    ValueError: naming both sizes.
  """
  chex.assert_rank(images, 4)
  if images.shape[1:3] != (size, size):
    raise ValueError(f'This network takes images of {size}x{size} pixels, not {images.shape[1]}x{images.shape[2]}.')


def _conv_layout(widths: tuple[int, ...], taps: tuple[int, ...], horizons: tuple[int, ...]) -> tuple[BofExit, ...]:
  """Exits of a ConvNet: one bag per run of convolutions and the pool behind it, one pair of linear maps for all.

  Where a horizon leaves 2x2 windows (64 * 4 values) `exit_0_fc` comes first.
  """
  layout, stage, side = [], 0, 2 * horizons[0]
  for unit in range(max(taps) + 1):
    if widths[unit] == POOL:
      side //= 2
    spec = horizons[stage]
    if unit in taps:
      layout.append(BofExit(f'exit_{stage}', spec, 'exit_0_fc' if side // spec == 2 else '', 'exit_1_fc'))
    if widths[unit] == POOL:
      stage = min(stage + 1, len(horizons) - 1)
  return tuple(layout)


def vgg19(classes: int = 10, *, dtype: Any = None, freeze_backbone: bool = False, axis_name: str | None = None):
  """The official VGG-19 for 32x32 pixels with 20 exits: after every convolution and the first four pools."""
  taps = tuple(range(len(VGG19) - 1))
  backbone = ConvNet(VGG19, taps, classes, dtype=dtype, axis_name=axis_name)
  heads = BofExits(_conv_layout(VGG19, taps, (16, 8, 4, 2)), classes, dtype=dtype)
  return MultiExit(backbone, heads, len(taps), 32, freeze_backbone)


def vgg19_stl10(classes: int = 10, *, dtype: Any = None, freeze_backbone: bool = False, axis_name: str | None = None):
  """The official VGG-19 for 96x96 pixels: the same taps and bags, 6x6 or 3x3 windows, two linear maps to 64 values."""
  taps = tuple(range(len(VGG19) - 1))
  backbone = ConvNet(VGG19, taps, classes, dtype=dtype, axis_name=axis_name)
  small = _conv_layout(VGG19, taps, (16, 8, 4, 2))
  layout = tuple(BofExit(e.bof, e.horizon, 'exit_0_fc' if e.reduce else 'exit_2_fc', e.output) for e in small)
  return MultiExit(backbone, BofExits(layout, classes, dtype=dtype), len(taps), 96, freeze_backbone)


def resnet34(
  classes: int = 10,
  *,
  image_size: int = 32,
  dtype: Any = None,
  freeze_backbone: bool = False,
  axis_name: str | None = None,
):
  """The official ResNet-34 with 32 exits: after every convolution of every block.

  `image_size` 96 switches on the max-pool behind the stem, as the authors ask for STL-10.

  Raises:
    ValueError: for another size.
  """
  if image_size not in (32, 96):
    raise ValueError(f'The official ResNet-34 takes images of 32 or 96 pixels, not {image_size}.')
  stem = 'small' if image_size == 32 else 'small_pool'
  backbone = ResNet(classes, stem=stem, dtype=dtype, axis_name=axis_name)
  layout = []
  for stage, depth in enumerate(DEPTHS34, 1):
    for block in range(1, depth + 1):
      spec = BofExit(
        f'block{block}_exit_{stage - 1}', 32 >> stage, f'layer{stage}_exit_0_fc', f'layer{stage}_exit_1_fc'
      )
      layout += [spec, spec]
  return MultiExit(backbone, BofExits(tuple(layout), classes, dtype=dtype), len(layout), image_size, freeze_backbone)


def pooled_vgg19(
  classes: int = 10,
  *,
  width: float = 1.0,
  grid: int = 1,
  image_size: int = 32,
  dtype: Any = None,
  freeze_backbone: bool = False,
  axis_name: str | None = None,
):
  """VGG-19 with 15 pooled exits, one before every pool and behind every convolution but the last (extension).

  `image_size` 224 is torchvision's vgg19_bn with its classifier of 4096-4096.

  Raises:
    ValueError: for a size that is not 32 or 224.
  """
  if image_size not in (32, 224):
    raise ValueError(f'The pooled VGG-19 takes images of 32 or 224 pixels, not {image_size}.')
  widths = scaled(VGG19, width)
  taps = tuple(unit for unit, w in enumerate(widths) if w != POOL)[:-1]
  hidden = (4096, 4096) if image_size == 224 else ()
  backbone = ConvNet(widths, taps, classes, hidden=hidden, dtype=dtype, axis_name=axis_name)
  sides, side = [], image_size
  for w in widths:
    side = side // 2 if w == POOL else side
    sides.append(side)
  largest = max(widths[t] * sides[t] ** 2 for t in taps)
  heads = PooledExits(len(taps), classes, max(widths) * grid * grid if grid else largest, grid)
  return MultiExit(backbone, heads, len(taps), image_size, freeze_backbone)


def pooled_resnet34(
  classes: int = 10,
  *,
  width: float = 1.0,
  grid: int = 1,
  image_size: int = 32,
  dtype: Any = None,
  freeze_backbone: bool = False,
  axis_name: str | None = None,
):
  """ResNet-34 with 16 pooled exits, behind the stem and every block but the last (extension).

  Raises:
    ValueError: for a size that is not 32 or 224.
  """
  if image_size not in (32, 224):
    raise ValueError(f'The pooled ResNet-34 takes images of 32 or 224 pixels, not {image_size}.')
  widths = scaled(WIDTHS, width)
  stem = 'small' if image_size == 32 else 'large'
  backbone = ResNet(classes, DEPTHS34, widths, 'blocks', stem, dtype, axis_name)
  side = image_size if image_size == 32 else image_size // 4
  inputs = max(widths) * grid * grid if grid else widths[0] * side * side
  exits = sum(DEPTHS34)
  return MultiExit(backbone, PooledExits(exits, classes, inputs, grid), exits, image_size, freeze_backbone)


def small_cnn(
  classes: int = 10,
  *,
  grid: int = 1,
  image_size: int = 16,
  dtype: Any = None,
  freeze_backbone: bool = False,
  axis_name: str | None = None,
):
  """Twelve convolutions with 11 pooled exits (extension): the energy part of the default run."""
  widths = (8, 8, 8, POOL, 16, 16, 16, POOL, 24, 24, 24, POOL, 32, 32, 32)
  taps = tuple(unit for unit, w in enumerate(widths) if w != POOL)[:-1]
  backbone = ConvNet(widths, taps, classes, use_bias=False, average=True, dtype=dtype, axis_name=axis_name)
  largest = max(w * (image_size >> sum(v == POOL for v in widths[:u])) ** 2 for u, w in enumerate(widths) if u in taps)
  heads = PooledExits(len(taps), classes, max(widths) * grid * grid if grid else largest, grid)
  return MultiExit(backbone, heads, len(taps), image_size, freeze_backbone)


def digits_bof(
  classes: int = 10,
  *,
  image_size: int = 16,
  dtype: Any = None,
  freeze_backbone: bool = False,
  axis_name: str | None = None,
):
  """Ten convolutions and three pools with 13 exits of the official kind: the main network of the default run.

  Raises:
    ValueError: for images whose side is not a multiple of 16.
  """
  if image_size % 16:
    raise ValueError(f'The digits network takes images whose side is a multiple of 16, not {image_size}.')
  widths = (16, 16, POOL, 24, 24, POOL, 32, 32, 32, POOL, 48, 48, 48)
  taps = tuple(range(len(widths)))
  backbone = ConvNet(widths, taps, classes, dtype=dtype, axis_name=axis_name)
  horizons = tuple(image_size >> i for i in (1, 2, 3, 4))
  heads = BofExits(_conv_layout(widths, taps, horizons), classes, dtype=dtype)
  return MultiExit(backbone, heads, len(taps), image_size, freeze_backbone)


NETWORKS = {
  'vgg19': vgg19,
  'vgg19_stl10': vgg19_stl10,
  'resnet34': resnet34,
  'pooled_vgg19': pooled_vgg19,
  'pooled_resnet34': pooled_resnet34,
  'small_cnn': small_cnn,
  'digits_bof': digits_bof,
}


def network(name: str, classes: int, **options: Any) -> MultiExit:
  """The variant called `name`.

  Raises:
    ValueError: for a name that is not in NETWORKS.
  """
  if name not in NETWORKS:
    raise ValueError(f'The network {name!r} is not known; known: {", ".join(NETWORKS)}.')
  return NETWORKS[name](classes, **options)
