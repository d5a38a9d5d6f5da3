"""Blind quality models: one network over pseudocylindrical tiles, plain panoramas or viewports.

`QualityModel` is the frame: a backbone on every frame, a linear head, pooling over the sphere, a mean over time. On
tiles with a ResNet-18 it is the authors' model; without tiles their ERP baseline; on viewports their scanpath baseline.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.layers.conv import Conv, torch_uniform
from jaxpapers.layers.norm import BatchNorm
from jaxpapers.layers.resnet import ModuleDef, ResNet18, kaiming_fan_out
from jaxpapers.vr_quality.pooling import area_weights, pool, visibility_weights
from jaxpapers.vr_quality.pseudo_layers import MaskedBatchNorm, PseudoConv, pseudo_max_pool
from jaxpapers.vr_quality.pseudocylindrical import sphere_slice, sphere_unslice
from jaxpapers.vr_quality.tables import tile_widths

POOLINGS = ('mean', 'area', 'visibility')
FORWARD = (1.0, 0.0, 0.0)
"""The image centre, where clips are centred on the starting viewpoint."""


class Quality(NamedTuple):
  """What a QualityModel says of clips.

  Attributes:
    score: [clips, times], one for every exploration time; equal ones unless the pooling is 'visibility'.
    frames: [clips, frames, times], scores of single frames.
    features: [clips, frames, h, w, channels], of the backbone, as a panorama (or viewport).
    map: [clips, frames, h, w], the head at every position: where the quality is good or bad.
    pooled: [clips, frames, channels], mean features by area where the pooling is 'area', else plain.
  """

  score: jax.Array
  frames: jax.Array
  features: jax.Array
  map: jax.Array
  pooled: jax.Array


def normalise(frames: jax.Array) -> jax.Array:
  """uint8 or 0..255 RGB [..., 3] as a ResNet trained on ImageNet takes it; float32 (or as `frames`, if floating).

  Source: the authors' code.
  """
  frames = jnp.asarray(frames)
  dtype = frames.dtype if jnp.issubdtype(frames.dtype, jnp.floating) else jnp.float32
  mean, std = (jnp.asarray(v, dtype) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
  return (frames.astype(dtype) / 255 - mean) / std


def check_size(height: int, width: int, npart: int, halvings: int) -> None:
  """Raises ValueError unless every level of a network on `npart` tiles has whole tiles, each with a column."""
  if height % (npart * 2**halvings) or width % 2**halvings:
    raise ValueError(
      f'Panoramas of H x W = {height} x {width} do not fit {npart} tiles and {halvings} halvings: '
      f'H must be a multiple of {npart * 2**halvings}, W of {2**halvings}.'
    )
  tile_widths(npart, width >> halvings)


class ThinNet(nn.Module):
  """3x3 convolution, norm and ReLU, a few times: the small network of the embedded runs. Source: this library's own.

  Attributes:
    channels: of every convolution.
    strides: of every convolution.
    conv: module made by conv(features, kernel_size, stride, name=...).
    norm: module made by norm(name=...), called with (x, use_running_average).
  """

  channels: Sequence[int] = (12, 18, 24, 36)
  strides: Sequence[int] = (1, 2, 2, 1)
  conv: ModuleDef = functools.partial(Conv, use_bias=False, kernel_init=kaiming_fan_out)
  norm: ModuleDef = BatchNorm

  @property
  def halvings(self) -> int:
    """How often the map's sides are halved."""
    return sum(stride == 2 for stride in self.strides)

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
    """[..., height, width, 3] -> the map after every convolution."""
    maps = []
    for index, (features, stride) in enumerate(zip(self.channels, self.strides, strict=True)):
      x = self.conv(features, 3, stride, name=f'conv{index}')(x)
      x = nn.relu(self.norm(name=f'norm{index}')(x, not train))
      maps.append(x)
    return tuple(maps)


class Linear(nn.Module):
  """A linear map with PyTorch's default initial values, which depend on the input's width; `kernel` and `bias`."""

  features: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., channels] -> [..., features]."""
    init = torch_uniform(x.shape[-1])
    kernel = self.param('kernel', init, (x.shape[-1], self.features), jnp.float32)
    return x @ kernel + self.param('bias', init, (self.features,), jnp.float32)


class QualityModel(nn.Module):
  """Frames -> quality of the clip. Source: the authors' code; 'area' and 'visibility' are additions.

  Attributes:
    backbone: module that maps [batch, (tiles,) height, width, 3] to a tuple of maps, the last of which counts, and
      tells its `halvings`.
    npart: tiles of the pseudocylindrical representation; 0 hands the frames to the backbone as they are.
    hidden: width of the head's first linear map.
    pooling: 'mean' over the grid (the authors'), 'area' (by solid angle), or 'visibility' (around a direction).
    times: exploration times; with 'visibility' each has its own concentration per frame.
    frames: frames per clip that concentrations are kept for.
    activation: between the head's two maps; None as the authors', whose head is one affine map.
    initial_concentration: k of the visibility weights before training.
  """

  backbone: nn.Module
  npart: int = 16
  hidden: int = 128
  pooling: str = 'mean'
  times: int = 2
  frames: int = 1
  activation: Callable[[jax.Array], jax.Array] | None = None
  initial_concentration: float = 1.0

  def setup(self):
    """The head and the concentrations."""
    if self.pooling not in POOLINGS:
      raise ValueError(f'Unknown pooling {self.pooling!r}; known: {", ".join(POOLINGS)}.')
    self.quality0 = Linear(self.hidden)
    self.quality1 = Linear(1)
    if self.pooling == 'visibility':
      raw = float(np.log(np.expm1(self.initial_concentration)))
      self.concentration = self.param('concentration', nn.initializers.constant(raw), (self.frames, self.times))

  def head(self, features: jax.Array) -> jax.Array:
    """[..., channels] -> [...]."""
    hidden = self.quality0(features)
    if self.activation is not None:
      hidden = self.activation(hidden)
    return self.quality1(hidden)[..., 0]

  def __call__(self, frames: jax.Array, toward: jax.Array | None = None, train: bool = False) -> Quality:
    """Scores clips.

    Args:
      frames: [clips, frames, height, width, 3], see `normalise`; panoramas, or viewports where npart is 0 (frames of
        several scanpaths side by side: their scores are averaged like those of a clip).
      toward: [clips, 3] or [clips, frames, 3] unit vectors that 'visibility' looks towards; None is the image centre.
      train: uses and updates batch statistics.

    Raises:
      ValueError: for sizes that do not fit the tiles, or a number of frames other than `self.frames` where each has its
        own concentration.
    """
    clips, count, height, width, _ = frames.shape
    x = frames.reshape(clips * count, height, width, 3)
    if self.npart:
      check_size(height, width, self.npart, self.backbone.halvings)
      x = sphere_unslice(self.backbone(sphere_slice(x, self.npart), train)[-1])
    else:
      x = self.backbone(x, train)[-1]
    features = x.reshape(clips, count, *x.shape[1:])
    grid = x.shape[1:3]
    quality_map = self.head(features)
    weights = area_weights(*grid, x.dtype) if self.pooling == 'area' else jnp.full(grid, 1 / np.prod(grid), x.dtype)
    pooled = jnp.einsum('cfhwd,hw->cfd', features, weights, precision=jax.lax.Precision.HIGHEST)
    if self.pooling == 'visibility':
      scores = pool(quality_map[:, :, None], self._visibility(clips, count, grid, toward, x.dtype))
    else:
      scores = jnp.repeat(self.head(pooled)[..., None], self.times, axis=-1)
    return Quality(jnp.mean(scores, axis=1), scores, features, quality_map, pooled)

  def _visibility(self, clips, count, grid, toward, dtype):
    """Weights [clips, frames, times, h, w]."""
    if count != self.frames:
      raise ValueError(f'Clips of {count} frames, but the model keeps concentrations for {self.frames}.')
    toward = jnp.asarray(FORWARD, dtype) if toward is None else toward
    if toward.ndim == 2:
      toward = toward[:, None]
    toward = jnp.broadcast_to(toward, (clips, count, 3))
    k = nn.softplus(self.concentration).astype(dtype)
    return visibility_weights(*grid, toward[:, :, None], jnp.broadcast_to(k, (clips, count, self.times)))


def tile_network(network: ModuleDef, bucketed: bool = False, axis_name: str | None = None, **options: Any) -> nn.Module:
  """`network` (ResNet18 or ThinNet) on pseudocylindrical tiles; `options` are its other attributes.

  Source: the authors' code; ThinNet is this library's own.
  """
  if network is ResNet18:
    options = {'pool': pseudo_max_pool, **options}
  conv = functools.partial(PseudoConv, bucketed=bucketed)
  return network(conv=conv, norm=functools.partial(MaskedBatchNorm, axis_name=axis_name), **options)


def plain_network(network: ModuleDef, axis_name: str | None = None, **options: Any) -> nn.Module:
  """`network` (ResNet18 or ThinNet) on panoramas or viewports, with zero padding.

  Source: the baselines of the authors' code.
  """
  return network(norm=functools.partial(BatchNorm, axis_name=axis_name), **options)


def pconv_resnet18(width: int = 64, npart: int = 16, bucketed: bool = False, **options: Any) -> QualityModel:
  """The authors' model; `width` channels at the start make thin variants. `options` are those of QualityModel."""
  return QualityModel(tile_network(ResNet18, bucketed, width=width), npart, **options)


def erp_resnet18(width: int = 64, **options: Any) -> QualityModel:
  """The plain ResNet-18 on panoramas (the ERP baseline), or on viewports along scanpaths.

  Source: the baselines of the authors' code.
  """
  return QualityModel(plain_network(ResNet18, width=width), 0, **options)
