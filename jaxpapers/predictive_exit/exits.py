"""Exit layers: the official logistic bag of features with shared linear maps, and (extension) stacked pooled heads.

Both kinds give the logits of one exit (`one`) and, with far fewer operations, of all exits at once (the call). A tap is
what an exit reads: a map [batch, height, width, channels].
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpapers.layers.conv import Conv, torch_uniform

EPS = 5e-16  # below float32's resolution: guards a sum of zeros and nothing else


def window_mean(x: jax.Array, size: int) -> jax.Array:
  """Mean over windows of `size` x `size` that do not overlap; rows and columns that are left over are dropped.

  [batch, height, width, channels] -> [batch, height // size, width // size, channels].

  Raises:
    ValueError: for a map smaller than the window.
  """
  batch, height, width, channels = x.shape
  rows, columns = height // size, width // size
  if size < 1 or rows < 1 or columns < 1:
    raise ValueError(f'A map of {height}x{width} has no whole window of {size}x{size}.')
  x = x[:, : rows * size, : columns * size].reshape(batch, rows, size, columns, size, channels)
  return x.mean((2, 4))


def flatten_channels_first(x: jax.Array) -> jax.Array:
  """[batch, height, width, channels] -> [batch, channels * height * width], index (c * height + y) * width + x."""
  return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


def bag_of_features(
  similarities: jax.Array, a: jax.Array, c: jax.Array, n1: jax.Array, n2: jax.Array, horizon: int
) -> jax.Array:
  """Logistic convolutional bag of features behind its codebook, the exit layer of the authors' code.

  Memberships u = (tanh(a s + c) + 1) / 2, their shares v = n1 u / sum of u over the codewords, and n2 times the mean of
  v over windows of `horizon` x `horizon`.

  Args:
    similarities: [batch, height, width, codewords], s = codebook(x).
    a: [1] slope.
    c: [1] offset.
    n1: [1] scale of the shares; initially the number of codewords.
    n2: [1] scale of the histogram; initially `horizon`.
    horizon: side of a window; rows and columns left over are dropped.

  Returns:
    [batch, codewords * rows * columns], in the order (codeword, row, column).
  """
  chex.assert_rank(similarities, 4)
  u = (jnp.tanh(a * similarities + c) + 1.0) / 2.0
  v = n1 * u / (jnp.sum(u, axis=-1, keepdims=True) + EPS)
  return flatten_channels_first(n2 * window_mean(v, horizon))


class LogisticBof(nn.Module):
  """`bag_of_features` with its trained parameters. Source: the exit layer of the authors' code.

  Attributes:
    horizon: side of the windows.
    codewords: size of the codebook.
    dtype: of the codebook's convolution; None is that of the input. The rest is float32.
  """

  horizon: int
  codewords: int = 64
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, height, width, channels] -> [batch, codewords * (height // horizon) * (width // horizon)]."""
    similarities = Conv(self.codewords, 1, dtype=self.dtype, name='codebook')(x)
    values = {'a': 1.0, 'c': 0.0, 'n1': float(self.codewords), 'n2': float(self.horizon)}
    scalars = {name: self.param(name, nn.initializers.constant(value), (1,)) for name, value in values.items()}
    wide = jnp.promote_types(similarities.dtype, jnp.float32)
    return bag_of_features(similarities.astype(wide), **scalars, horizon=self.horizon)


class Linear(nn.Module):
  """A linear map with PyTorch's default initialisation, in float32 or better.

  Attributes:
    features: outputs.
  """

  features: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., inputs] -> [..., features]."""
    init = torch_uniform(x.shape[-1])
    kernel = self.param('kernel', init, (x.shape[-1], self.features), jnp.float32)
    return x @ kernel + self.param('bias', init, (self.features,), jnp.float32)


@dataclasses.dataclass(frozen=True)
class BofExit:
  """Which shared modules an exit is made of; equal names are one module. Source: the authors' code.

  Attributes:
    bof: of the bag of features.
    horizon: of the bag of features.
    reduce: of the linear map to 64 values; '' where the bag has 64 already.
    output: of the linear map to the classes.
  """

  bof: str
  horizon: int
  reduce: str
  output: str


class BofExits(nn.Module):
  """The official exit layers: bags of features and linear maps that exits share, no nonlinearity between.

  Attributes:
    layout: of every exit, in depth order.
    classes: outputs.
    codewords: of every bag.
    reduced: values between the two linear maps.
    dtype: of the codebooks' convolutions.
  """

  layout: tuple[BofExit, ...]
  classes: int
  codewords: int = 64
  reduced: int = 64
  dtype: Any = None

  def setup(self):
    """Makes every shared module once, under its name."""
    horizons: dict[str, int] = {}
    for spec in self.layout:
      if horizons.setdefault(spec.bof, spec.horizon) != spec.horizon:
        raise ValueError(f'The bag {spec.bof!r} is given two horizons, {horizons[spec.bof]} and {spec.horizon}.')
    for name, horizon in horizons.items():
      setattr(self, name, LogisticBof(horizon, self.codewords, self.dtype))
    for name in dict.fromkeys(spec.reduce for spec in self.layout if spec.reduce):
      setattr(self, name, Linear(self.reduced))
    for name in dict.fromkeys(spec.output for spec in self.layout):
      setattr(self, name, Linear(self.classes))

  def one(self, tap: jax.Array, k: int) -> jax.Array:
    """Logits [batch, classes] of exit `k` (from 0) on its tap."""
    spec = self.layout[k]
    y = getattr(self, spec.bof)(tap)
    if spec.reduce:
      y = getattr(self, spec.reduce)(y)
    return getattr(self, spec.output)(y)

  def __call__(self, taps: Sequence[jax.Array]) -> jax.Array:
    """Taps of all exits -> logits [batch, exits, classes]; exits that share a linear map go through it together."""
    rows = [getattr(self, spec.bof)(tap) for spec, tap in zip(self.layout, taps, strict=True)]
    rows = self._together(rows, [spec.reduce for spec in self.layout])
    return jnp.stack(self._together(rows, [spec.output for spec in self.layout]), axis=1)

  def _together(self, rows: list[jax.Array], names: list[str]) -> list[jax.Array]:
    rows = list(rows)
    for name in dict.fromkeys(filter(None, names)):
      places = [k for k, other in enumerate(names) if other == name]
      mapped = getattr(self, name)(jnp.stack([rows[k] for k in places], axis=1))
      for i, k in enumerate(places):
        rows[k] = mapped[:, i]
    return rows


def pooled_vector(tap: jax.Array, grid: int, inputs: int) -> jax.Array:
  """What a pooled head reads (extension): the map averaged to grid x grid, channels padded with zeros, flattened.

  Args:
    tap: [batch, height, width, channels].
    grid: cells a side; 0 keeps the whole map.
    inputs: length of the result, channels of the widest tap times grid^2; with grid 0 the size of the largest map.

  Returns:
    [batch, inputs], index c * grid * grid + y * grid + x.

  Raises:
    ValueError: if the grid does not divide the map, or the result is longer than `inputs`.
  """
  chex.assert_rank(tap, 4)
  if grid:
    height, width = tap.shape[1:3]
    if height % grid or width % grid:
      raise ValueError(f'A grid of {grid}x{grid} does not divide a map of {height}x{width}.')
    if height != width:
      raise ValueError(f'Pooled heads take square maps, not {height}x{width}.')
    tap = window_mean(tap, height // grid)
  vector = flatten_channels_first(tap)
  if vector.shape[1] > inputs:
    raise ValueError(f'A tap gives {vector.shape[1]} values, more than the {inputs} that the heads take.')
  return jnp.pad(vector, ((0, 0), (0, inputs - vector.shape[1])))


class PooledExits(nn.Module):
  """Exit layers of one topology (extension): every tap becomes a vector of one length, every head a row of one stack.

  Attributes:
    exits: how many.
    classes: outputs.
    inputs: length of the vectors, see `pooled_vector`.
    grid: cells a side, or 0.
  """

  exits: int
  classes: int
  inputs: int
  grid: int = 1

  def setup(self):
    """Stacked weights [exits, classes, inputs] and biases [exits, classes], PyTorch's initialisation."""
    init = torch_uniform(self.inputs)
    self.weight = self.param('weight', init, (self.exits, self.classes, self.inputs), jnp.float32)
    self.bias = self.param('bias', init, (self.exits, self.classes), jnp.float32)

  def one(self, tap: jax.Array, k: int) -> jax.Array:
    """Logits [batch, classes] of exit `k` (from 0) on its tap."""
    vector = pooled_vector(tap, self.grid, self.inputs).astype(self.weight.dtype)
    return vector @ self.weight[k].T + self.bias[k]

  def vectors(self, taps: Sequence[jax.Array]) -> jax.Array:
    """Taps of all exits -> what the heads read, [batch, exits, inputs]."""
    return jnp.stack([pooled_vector(tap, self.grid, self.inputs) for tap in taps], axis=1)

  def __call__(self, taps: Sequence[jax.Array]) -> jax.Array:
    """Taps of all exits -> logits [batch, exits, classes], one contraction."""
    vectors = self.vectors(taps).astype(self.weight.dtype)
    return jnp.einsum('nld,lkd->nlk', vectors, self.weight) + self.bias
