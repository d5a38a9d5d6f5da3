"""Feature pyramid network (Lin et al., 2017)."""

from collections.abc import Sequence
from typing import Any

import chex
import flax.linen as nn
import jax

from jaxpapers.layers.conv import Conv
from jaxpapers.ops import resize


class FPN(nn.Module):
  """Maps of one width at every scale: lateral 1x1, top-down nearest upsampling and addition, 3x3 outputs.

  All convolutions have a bias; there is no norm and no activation.

  Attributes:
    width: channels of every output.
    extra: further, coarser levels: the first is a 3x3 stride-2 convolution of the raw coarsest input (RetinaNet's P6),
      each next one of the level before, with no activation between.
    dtype: of the computation; None is that of the input.
  """

  width: int = 256
  extra: int = 0
  dtype: Any = None

  @nn.compact
  def __call__(self, maps: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    """Pyramid of maps.

    Args:
      maps: finest first, each [batch, height, width, channels].

    Returns:
      finest first, len(maps) + extra maps [batch, height, width, self.width].
    """
    if not maps:
      raise ValueError('A feature pyramid needs at least one map.')
    chex.assert_rank(list(maps), 4)

    def conv(name, kernel, stride=1):
      return Conv(
        self.width,
        kernel,
        stride,
        kernel_init=nn.initializers.xavier_uniform(),
        bias_init=nn.initializers.zeros,
        dtype=self.dtype,
        name=name,
      )

    levels = [conv(f'lateral{i}', 1)(x) for i, x in enumerate(maps)]
    for i in reversed(range(len(levels) - 1)):
      levels[i] += resize.nearest(levels[i + 1], levels[i].shape[1:3])
    outputs = [conv(f'output{i}', 3)(x) for i, x in enumerate(levels)]
    source = maps[-1]
    for i in range(len(maps), len(maps) + self.extra):
      source = conv(f'output{i}', 3, stride=2)(source)
      outputs.append(source)
    return tuple(outputs)
