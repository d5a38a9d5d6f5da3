"""CP-FPN: a feature pyramid whose coarser levels are bare laterals (PETR, arXiv 2203.05625)."""

from collections.abc import Sequence

import chex
import flax.linen as nn
import jax

from jaxpapers.layers.conv import Conv
from jaxpapers.ops import resize


class CPFPN(nn.Module):
  """Lateral 1x1 convolutions, top-down nearest upsampling and addition, a 3x3 convolution on the finest level only.

  All convolutions have a bias; there is no norm and no activation.

  Attributes:
    width: channels of every output.
  """

  width: int = 256

  @nn.compact
  def __call__(self, maps: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    """Maps [batch, height, width, channels], finest first -> as many of `self.width` channels."""
    chex.assert_rank(list(maps), 4)
    init = {'kernel_init': nn.initializers.xavier_uniform(), 'bias_init': nn.initializers.zeros}
    levels = [Conv(self.width, 1, **init, name=f'lateral{i}')(x) for i, x in enumerate(maps)]
    for i in reversed(range(len(levels) - 1)):
      levels[i] += resize.nearest(levels[i + 1], levels[i].shape[1:3])
    levels[0] = Conv(self.width, 3, **init, name='output0')(levels[0])
    return tuple(levels)
