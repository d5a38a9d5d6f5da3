"""The sparse voxel encoder of the paper's LiDAR branch (mmdet3d's SparseEncoder with basic blocks)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpapers.cmt import sparse
from jaxpapers.layers.conv import torch_uniform

WINDOWS = (
  ((3, 3, 3), (2, 2, 2), (1, 1, 1)),
  ((3, 3, 3), (2, 2, 2), (1, 1, 1)),
  ((3, 3, 3), (2, 2, 2), (0, 1, 1)),
  ((3, 1, 1), (2, 1, 1), (0, 0, 0)),
)
"""Kernel, stride and padding of the strided convolutions, each along z, y, x."""


class Level(NamedTuple):
  """Features of one resolution: sorted site ids [batch, n] (linear, in its grid), features [batch, n, channels]."""

  ids: jax.Array
  features: jax.Array


class MaskedBatchNorm(nn.Module):
  """Batch normalisation over the active rows; inactive rows stay 0. The running variance is the unbiased one.

  Attributes:
    eps: added to the variance.
    momentum: what the running statistics keep of their old value.
  """

  eps: float = 1e-3
  momentum: float = 0.99

  @nn.compact
  def __call__(self, x: jax.Array, active: jax.Array, use_running_average: bool) -> jax.Array:
    """[batch, n, channels] and active rows [batch, n] -> [batch, n, channels]; updates `batch_stats` {mean, var}."""
    channels = x.shape[-1]
    mask = active[..., None]
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, (channels,), jnp.float32)
    running_var = self.variable('batch_stats', 'var', jnp.ones, (channels,), jnp.float32)
    if use_running_average:
      mean, var = running_mean.value, running_var.value
    else:
      count = jnp.maximum(active.sum(), 1).astype(jnp.float32)
      mean = x.sum((0, 1), where=mask) / count
      var = jnp.square(x - mean).sum((0, 1), where=mask) / count
      if not self.is_initializing():
        keep = jnp.where(active.any(), self.momentum, 1.0)  # nothing is learned from an empty batch
        unbiased = var * (count / jnp.maximum(count - 1, 1))
        running_mean.value = keep * running_mean.value + (1 - keep) * jax.lax.stop_gradient(mean)
        running_var.value = keep * running_var.value + (1 - keep) * jax.lax.stop_gradient(unbiased)
    scale = self.param('scale', nn.initializers.ones, (channels,), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (channels,), jnp.float32)
    return jnp.where(mask, (x - mean) * (jax.lax.rsqrt(var + self.eps) * scale) + bias, 0.0)


class SparseConv(nn.Module):
  """`sparse.gather_conv` with the parameter `kernel` [kd, kh, kw, channels, features].

  Attributes:
    features: output channels.
    kernel_size: taps along z, y, x.
    block: see `sparse.gather_conv`.
  """

  features: int
  kernel_size: Sequence[int] = (3, 3, 3)
  block: int | None = None

  @nn.compact
  def __call__(self, x: jax.Array, neighbours: sparse.Neighbours) -> jax.Array:
    """[batch, inputs, channels] -> [batch, outputs, features]."""
    shape = (*self.kernel_size, x.shape[-1], self.features)
    kernel = self.param('kernel', torch_uniform(math.prod(shape[:-1])), shape, jnp.float32)
    return sparse.gather_conv(x, kernel.astype(x.dtype), neighbours, self.block)


class _Unit(nn.Module):
  features: int
  kernel_size: Sequence[int] = (3, 3, 3)
  block: int | None = None

  @nn.compact
  def __call__(self, x, neighbours, active, train):
    x = SparseConv(self.features, self.kernel_size, self.block, name='conv')(x, neighbours)
    return nn.relu(MaskedBatchNorm(name='norm')(x, active, not train))


class _BasicBlock(nn.Module):
  features: int
  block: int | None = None

  @nn.compact
  def __call__(self, x, neighbours, active, train):
    y = SparseConv(self.features, block=self.block, name='conv1')(x, neighbours)
    y = nn.relu(MaskedBatchNorm(name='bn1')(y, active, not train))
    y = SparseConv(self.features, block=self.block, name='conv2')(y, neighbours)
    return nn.relu(MaskedBatchNorm(name='bn2')(y, active, not train) + x)


class SparseEncoder(nn.Module):
  """Voxels to bird's-eye-view features at an eighth of their resolution.

  Source: mmdet3d's encoder, of the paper's LiDAR branch.

  Attributes:
    shape: grid (z, y, x) of the voxels.
    widths: channels of the four resolutions.
    out: channels of the last convolution.
    capacities: most active sites per example after each of the three strided convolutions and after the last one.
    block: see `sparse.gather_conv`.
  """

  shape: Sequence[int] = (41, 1440, 1440)
  widths: Sequence[int] = (16, 32, 64, 128)
  out: int = 128
  capacities: Sequence[int] = (360_000, 240_000, 72_000, 40_000)
  block: int | None = None

  def grids(self) -> tuple[tuple[int, ...], ...]:
    """The grid (z, y, x) of each of `levels`."""
    shapes = [tuple(self.shape)]
    for window in WINDOWS:
      shapes.append(sparse.strided_shape(shapes[-1], *window))
    return (*shapes[:4], *shapes[3:])

  @nn.compact
  def levels(
    self, features: jax.Array, coords: jax.Array, train: bool = False
  ) -> tuple[tuple[Level, ...], dict[str, jax.Array]]:
    """Every resolution after its last convolution.

    Args:
      features: [batch, voxels, channels] float32.
      coords: [batch, voxels, 3] int32 (z, y, x), no voxel twice; rows outside the grid are ignored.
      train: batch norm uses the batch's statistics, and updates the running ones.

    Returns:
      (conv_input, encoder_layer1 to 4, conv_out; counts of sites that found no room, int32 [batch]).
    """
    ids = sparse.linear_ids(coords, self.shape)
    order = jnp.argsort(ids, 1)
    ids = jnp.take_along_axis(ids, order, 1)
    shape = tuple(self.shape)
    active = ids < math.prod(shape)
    x = jnp.where(active[..., None], jnp.take_along_axis(features, order[..., None], 1), 0.0)
    found, lost = [], {}
    for level, width in enumerate(self.widths):
      near = sparse.submanifold_neighbours(ids, shape)
      if level == 0:
        x = _Unit(width, block=self.block, name='conv_input')(x, near, active, train)
        found.append(Level(ids, x))
      for i in range(2):
        x = _BasicBlock(width, self.block, name=f'layer{level + 1}_{i}')(x, near, active, train)
      if level < 3:
        width, name = self.widths[level + 1], f'down{level + 1}'
      else:
        found.append(Level(ids, x))  # the finer resolutions end with their strided convolution
        width, name = self.out, 'conv_out'
      window, capacity = WINDOWS[level], self.capacities[level]
      sites, count = sparse.strided_sites(ids, shape, *window, capacity)
      near = sparse.strided_neighbours(ids, shape, sites, *window)
      lost[f'lost_sites{level + 1}'] = jnp.maximum(count - capacity, 0)
      shape = sparse.strided_shape(shape, *window)
      ids, active = sites, sites < math.prod(shape)
      x = _Unit(width, window[0], self.block, name=name)(x, near, active, train)
      found.append(Level(ids, x))
    return tuple(found), lost

  def __call__(
    self, features: jax.Array, coords: jax.Array, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """As `levels` -> ([batch, y / 8, x / 8, out * planes], channel c * planes + plane; counts of lost sites)."""
    levels, lost = self.levels(features, coords, train)
    shape = self.grids()[-1]
    dense = sparse.densify(levels[-1].features, levels[-1].ids, shape)  # [batch, z, y, x, channels]
    return jnp.moveaxis(dense, 1, -1).reshape(dense.shape[0], *shape[1:], -1), lost
