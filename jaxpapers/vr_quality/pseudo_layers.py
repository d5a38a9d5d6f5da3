"""Layers on pseudocylindrical tiles: convolution, batch norm over valid positions, max pooling.

Tensors are [batch, tiles, tile height, width, channels], see `pseudocylindrical`.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.layers.conv import Initializer, conv, torch_uniform
from jaxpapers.vr_quality import pseudocylindrical, tables

Dtype = Any
kaiming_uniform: Initializer = nn.initializers.variance_scaling(2.0, 'fan_in', 'uniform')
"""What the authors initialise pseudocylindrical convolutions with."""


def pseudo_conv(tiles: jax.Array, kernel: jax.Array, stride: int = 1, bucketed: bool = False) -> jax.Array:
  """Convolution on the sphere: pad, convolve without padding, trim. A 1x1 kernel needs no pad.

  Source: Li et al.'s pseudocylindrical convolutions, as in the authors' code.

  Args:
    tiles: [batch, npart, h, width, channels], floating.
    kernel: [k, k, channels, features] of the same dtype, k odd.
    stride: in both axes; it divides h and width.
    bucketed: convolve tiles of equal width together, at that width rounded up to 8 columns. The same values with a
      third fewer multiply-adds, as one convolution per distinct width.

  Returns:
    [batch, npart, h / stride, width / stride, features], zero in the unused columns.

  Raises:
    ValueError: for an even kernel or sizes that the stride does not divide.
  """
  size = kernel.shape[0]
  _, _, height, width, _ = tiles.shape
  if size % 2 == 0 or kernel.shape[1] != size:
    raise ValueError(f'pseudo_conv takes odd square kernels, not {kernel.shape[:2]}.')
  if height % stride or width % stride:
    raise ValueError(f'Stride {stride} does not divide tiles of {height} x {width}.')
  if size == 1:
    return pseudocylindrical.trim(tiles[:, :, ::stride, ::stride] @ kernel[0, 0])
  padded = pseudocylindrical.pad(tiles, size // 2)
  if bucketed:
    return _bucketed(padded, kernel, stride, height // stride, width)
  return pseudocylindrical.trim(_convolve(padded, kernel, stride))


def _convolve(padded, kernel, stride):
  """All tiles of all images as one batch."""
  batch, npart = padded.shape[:2]
  y = conv(padded.reshape(batch * npart, *padded.shape[2:]), kernel, stride, 0)
  return y.reshape(batch, npart, *y.shape[1:])


def _bucketed(padded, kernel, stride, height, width):
  """One convolution per distinct width; outputs beyond a tile's width are cut or zero."""
  npart, halo = padded.shape[1], kernel.shape[0] - 1
  out_width, widths = width // stride, tables.tile_widths(npart, width // stride)
  tiles = [None] * npart
  for group_width, members in tables.width_groups(npart, width):
    used = min(-(-group_width // 8) * 8, width)
    part = jnp.stack([padded[:, g, :, : used + halo] for g in members], axis=1)
    y = _convolve(part, kernel, stride)
    for position, g in enumerate(members):
      valid = y[:, position, :, : widths[g]]
      tiles[g] = jnp.pad(valid, ((0, 0), (0, 0), (0, out_width - widths[g]), (0, 0)))
  return jnp.stack(tiles, axis=1)


class PseudoConv(nn.Module):
  """`pseudo_conv` with parameters `kernel` [k, k, channels, features] and `bias` [features], float32.

  Attributes:
    features: output channels.
    kernel_size: side of the square kernel, odd.
    stride: in both axes.
    use_bias: adds `bias` in the valid columns.
    kernel_init: None is the authors': `kaiming_uniform`.
    bucketed: see `pseudo_conv`.
    dtype: of the computation and the result; None is that of the input.
  """

  features: int
  kernel_size: int = 3
  stride: int = 1
  use_bias: bool = False
  kernel_init: Initializer | None = None
  bucketed: bool = False
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, npart, h, width, channels] -> [batch, npart, h / stride, width / stride, features]."""
    shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init or kaiming_uniform, shape, jnp.float32)
    dtype = self.dtype or x.dtype
    y = pseudo_conv(x.astype(dtype), kernel.astype(dtype), self.stride, self.bucketed)
    if not self.use_bias:
      return y
    bias = self.param('bias', torch_uniform(int(np.prod(shape[:3]))), (self.features,), jnp.float32)
    return pseudocylindrical.trim(y + bias.astype(dtype))


class MaskedBatchNorm(nn.Module):
  """Batch norm over the valid positions; the running variance is the biased one, as the authors' layer stores it.

  Statistics are float32, or double precision for such an input.

  Attributes:
    eps: added to the variance.
    momentum: what the running statistics keep of their old value.
    axis_name: a pmap axis over which statistics are shared; None keeps them per device (under jit: global).
    dtype: of the result; None is that of the input.
  """

  eps: float = 1e-5
  momentum: float = 0.9
  axis_name: str | None = None
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array, use_running_average: bool) -> jax.Array:
    """[batch, npart, h, width, channels] -> the same shape, zero in the unused columns."""
    channels = x.shape[-1]
    wide = jnp.promote_types(x.dtype, jnp.float32)
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, (channels,), jnp.float32)
    running_var = self.variable('batch_stats', 'var', jnp.ones, (channels,), jnp.float32)
    scale = self.param('scale', nn.initializers.ones, (channels,), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (channels,), jnp.float32)
    if use_running_average:
      mean, var = running_mean.value, running_var.value
    else:
      mean, var = _statistics(x.astype(wide), None if self.is_initializing() else self.axis_name)
      if not self.is_initializing():
        keep, new = self.momentum, 1.0 - self.momentum
        running_mean.value = keep * running_mean.value + new * jax.lax.stop_gradient(mean)
        running_var.value = keep * running_var.value + new * jax.lax.stop_gradient(var)
    y = (x.astype(wide) - mean) * (jax.lax.rsqrt(var + self.eps) * scale) + bias
    return pseudocylindrical.trim(y.astype(self.dtype or x.dtype))


def _statistics(x, axis_name):
  """Mean and biased variance per channel over the valid positions, in two passes."""
  batch, npart, height, width, _ = x.shape
  count = batch * height * sum(tables.tile_widths(npart, width))
  mean = jnp.sum(pseudocylindrical.trim(x), axis=(0, 1, 2, 3)) / count
  mean = mean if axis_name is None else jax.lax.pmean(mean, axis_name)
  var = jnp.sum(jnp.square(pseudocylindrical.trim(x - mean)), axis=(0, 1, 2, 3)) / count
  return mean, (var if axis_name is None else jax.lax.pmean(var, axis_name))


def pseudo_max_pool(tiles: jax.Array) -> jax.Array:
  """3x3 maxima at stride 2 after a pad of 1, of values that are at least 0 (after a ReLU). Source: the authors' code.

  Args:
    tiles: [batch, npart, h, width, channels], h and width even.

  Returns:
    [batch, npart, h / 2, width / 2, channels], zero in the unused columns.
  """
  batch, npart = tiles.shape[:2]
  padded = pseudocylindrical.pad(tiles, 1)
  y = nn.max_pool(padded.reshape(batch * npart, *padded.shape[2:]), (3, 3), (2, 2))
  return pseudocylindrical.trim(y.reshape(batch, npart, *y.shape[1:]))
