"""Plain convolutional networks cut into segments at their taps: VGG-19 and the small networks of the default run.

A segment is what lies between two taps; `start`, then `segment(carry, 0)`, `segment(carry, 1)`, ... and `classify`
are the whole network. A carry is a tuple whose first entry is the newest map, which is what an exit reads.
"""

from typing import Any

import flax.linen as nn
import jax

from jaxpapers.layers.conv import Conv
from jaxpapers.layers.norm import BatchNorm
from jaxpapers.predictive_exit.exits import Linear, flatten_channels_first

POOL = 0  # in a list of widths: a 2x2 max-pool
VGG19 = (*(64, 64, POOL, 128, 128, POOL, 256, 256, 256, 256, POOL), *((512, 512, 512, 512, POOL) * 2))

Carry = tuple[jax.Array, ...]


def scaled(widths: tuple[int, ...], width: float) -> tuple[int, ...]:
  """Every width times `width`, rounded down, at least 1; pools stay.

  Raises:
    ValueError: for a multiplier that is not positive.
  """
  if not width > 0:
    raise ValueError(f'The width multiplier must be positive, not {width}.')
  return tuple(POOL if w == POOL else max(1, int(w * width)) for w in widths)


class ConvNet(nn.Module):
  """3x3 convolutions (padding 1) with batch norm and ReLU, 2x2 max-pools, and a linear classifier.

  Attributes:
    widths: channels of every convolution, POOL for a pool, in order.
    taps: units (indices into `widths`) behind which an exit reads, ascending.
    classes: outputs.
    use_bias: of the convolutions; a norm follows, so that it changes the parameters and not the function.
    average: the classifier sees the mean over the map instead of the map in (channel, row, column) order.
    hidden: widths of linear maps with ReLU before the classifier; (4096, 4096) for images of 224 pixels.
    dtype: of the computation; None is that of the input.
    axis_name: pmap axis over which batch norm shares statistics.
  """

  widths: tuple[int, ...]
  taps: tuple[int, ...]
  classes: int
  use_bias: bool = True
  average: bool = False
  hidden: tuple[int, ...] = ()
  dtype: Any = None
  axis_name: str | None = None

  def setup(self):
    """conv1, bn1, conv2, ...; fc (before it fc_hidden1, ...)."""
    numbers, number = [], 0
    for width in self.widths:
      number += width != POOL
      numbers.append(number if width != POOL else POOL)
      if width != POOL:
        setattr(self, f'conv{number}', Conv(width, 3, use_bias=self.use_bias, dtype=self.dtype))
        setattr(self, f'bn{number}', BatchNorm(axis_name=self.axis_name))
    self.numbers = tuple(numbers)
    for i, width in enumerate(self.hidden, 1):
      setattr(self, f'fc_hidden{i}', Linear(width))
    self.fc = Linear(self.classes)

  def start(self, images: jax.Array) -> Carry:
    """[batch, height, width, channels] -> the carry before the first segment."""
    return (images,)

  def segment(self, carry: Carry, k: int, train: bool = False) -> Carry:
    """From tap k - 1 up to tap k; k = len(taps) is what remains."""
    (x,) = carry
    first = self.taps[k - 1] + 1 if k else 0
    last = self.taps[k] + 1 if k < len(self.taps) else len(self.widths)
    for number in self.numbers[first:last]:
      if number == POOL:
        x = nn.max_pool(x, (2, 2), (2, 2))
      else:
        x = getattr(self, f'conv{number}')(x)
        x = nn.relu(getattr(self, f'bn{number}')(x, not train))
    return (x,)

  def classify(self, carry: Carry) -> jax.Array:
    """The carry behind the last segment -> logits [batch, classes], float32 or better."""
    (x,) = carry
    x = x.mean((1, 2)) if self.average else flatten_channels_first(x)
    for i in range(len(self.hidden)):
      x = nn.relu(getattr(self, f'fc_hidden{i + 1}')(x))
    return self.fc(x)
