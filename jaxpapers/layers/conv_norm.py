"""Convolution without bias, batch norm, activation: the unit that detection and segmentation heads are made of."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from jaxpapers.layers.conv import Conv, DepthwiseConv, Initializer
from jaxpapers.layers.norm import BatchNorm


class ConvNorm(nn.Module):
  """Convolution, batch norm, activation.

  Attributes:
    features: output channels; not used by a depthwise convolution, which keeps them.
    kernel_size: side of the square kernel; the padding is half the (dilated) kernel.
    stride: in both axes.
    dilation: distance of the kernel's taps.
    depthwise: every channel has its own kernel.
    activation: applied last.
    eps: of the norm.
    momentum: what the running statistics keep of their old value.
    kernel_init: None is PyTorch's default.
    dtype: of the computation; None is that of the input.
  """

  features: int = 0
  kernel_size: int = 1
  stride: int = 1
  dilation: int = 1
  depthwise: bool = False
  activation: Callable[[jax.Array], jax.Array] = nn.relu
  eps: float = 1e-5
  momentum: float = 0.9
  kernel_init: Initializer | None = None
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """[batch, height, width, channels] -> [batch, height', width', features]."""
    if self.depthwise:
      conv = DepthwiseConv(self.kernel_size, self.stride, kernel_init=self.kernel_init, dtype=self.dtype, name='conv')
    else:
      conv = Conv(
        self.features,
        self.kernel_size,
        self.stride,
        dilation=self.dilation,
        use_bias=False,
        kernel_init=self.kernel_init,
        dtype=self.dtype,
        name='conv',
      )
    return self.activation(BatchNorm(self.eps, self.momentum, name='norm')(conv(x), not train))
