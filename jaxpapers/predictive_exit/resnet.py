"""ResNets of basic blocks cut into segments at their taps; see `vgg` for what a segment and a carry are."""

from typing import Any

import flax.linen as nn
import jax

from jaxpapers.layers.conv import Conv
from jaxpapers.layers.norm import BatchNorm
from jaxpapers.predictive_exit.exits import Linear
from jaxpapers.predictive_exit.vgg import Carry

DEPTHS34 = (3, 4, 6, 3)
WIDTHS = (64, 128, 256, 512)


class ResNet(nn.Module):
  """Stem, four stages of basic blocks, mean over the map, linear classifier.

  The first block of stages 2-4 halves the map, with a 1x1 projection of its input. A segment may end inside a block:
  the carry then holds the block's input beside the newest map.

  Attributes:
    classes: outputs.
    depths: blocks of every stage.
    widths: channels of every stage.
    tap: 'convolutions' (after both convolutions of every block: the official exits) or 'blocks' (after the stem and
      every block but the last: extension).
    stem: 'small' (3x3, no pool), 'small_pool' (the same and a 3x3/2 max-pool: official for 96 pixels) or 'large'
      (7x7/2 and the pool: 224 pixels).
    dtype: of the computation; None is that of the input.
    axis_name: pmap axis over which batch norm shares statistics.
  """

  classes: int
  depths: tuple[int, ...] = DEPTHS34
  widths: tuple[int, ...] = WIDTHS
  tap: str = 'convolutions'
  stem: str = 'small'
  dtype: Any = None
  axis_name: str | None = None

  def setup(self):
    """stem_conv, stem_bn, layer1_block1_conv1, layer1_block1_bn1, ..., layer2_block1_shortcut, ..., fc."""
    if self.tap not in ('convolutions', 'blocks'):
      raise ValueError(f"Taps lie after 'convolutions' or 'blocks', not {self.tap!r}.")
    if self.stem not in ('small', 'small_pool', 'large'):
      raise ValueError(f"A stem is 'small', 'small_pool' or 'large', not {self.stem!r}.")
    size, stride = (7, 2) if self.stem == 'large' else (3, 1)
    self.stem_conv = self._conv(self.widths[0], size, stride)
    self.stem_bn = self._norm()
    for stage, block in self.blocks:
      name, stride = f'layer{stage}_block{block}', 2 if stage > 1 and block == 1 else 1
      width = self.widths[stage - 1]
      setattr(self, f'{name}_conv1', self._conv(width, 3, stride))
      setattr(self, f'{name}_bn1', self._norm())
      setattr(self, f'{name}_conv2', self._conv(width, 3, 1))
      setattr(self, f'{name}_bn2', self._norm())
      if stride > 1:
        setattr(self, f'{name}_shortcut', self._conv(width, 1, stride))
        setattr(self, f'{name}_bn3', self._norm())
    self.fc = Linear(self.classes)

  def _conv(self, width: int, size: int, stride: int) -> Conv:
    return Conv(width, size, stride, use_bias=False, dtype=self.dtype)

  def _norm(self) -> BatchNorm:
    return BatchNorm(axis_name=self.axis_name)

  @property
  def blocks(self) -> tuple[tuple[int, int], ...]:
    """(stage, block), both from 1, in order."""
    return tuple((s, b) for s, depth in enumerate(self.depths, 1) for b in range(1, depth + 1))

  def start(self, images: jax.Array) -> Carry:
    """[batch, height, width, channels] -> the carry before the first segment."""
    return (images,)

  def segment(self, carry: Carry, k: int, train: bool = False) -> Carry:
    """From tap k - 1 up to tap k; the number after the last tap is what remains."""
    if self.tap == 'convolutions':
      if k == 0:
        carry = self._stem(carry, train)
      if k == 2 * len(self.blocks):
        return carry
      name = self._name(k // 2)
      return self._second(carry, name, train) if k % 2 else self._first(carry, name, train)
    if k == 0:
      return self._stem(carry, train)
    name = self._name(k - 1)
    return self._second(self._first(carry, name, train), name, train)

  def classify(self, carry: Carry) -> jax.Array:
    """The carry behind the last segment -> logits [batch, classes], float32 or better."""
    return self.fc(carry[0].mean((1, 2)))

  def _name(self, index: int) -> str:
    stage, block = self.blocks[index]
    return f'layer{stage}_block{block}'

  def _stem(self, carry: Carry, train: bool) -> Carry:
    x = nn.relu(self.stem_bn(self.stem_conv(carry[0]), not train))
    if self.stem != 'small':
      x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    return (x,)

  def _first(self, carry: Carry, name: str, train: bool) -> Carry:
    (x,) = carry
    y = nn.relu(getattr(self, f'{name}_bn1')(getattr(self, f'{name}_conv1')(x), not train))
    return y, x

  def _second(self, carry: Carry, name: str, train: bool) -> Carry:
    y, x = carry
    y = getattr(self, f'{name}_bn2')(getattr(self, f'{name}_conv2')(y), not train)
    if hasattr(self, f'{name}_shortcut'):
      x = getattr(self, f'{name}_bn3')(getattr(self, f'{name}_shortcut')(x), not train)
    return (nn.relu(y + x),)
