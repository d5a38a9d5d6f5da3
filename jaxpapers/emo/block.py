"""The Meta Mobile Block and the inverted residual mobile block, iRMB (paper sections 2.2 and 2.3)."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpapers.emo import window as windows
from jaxpapers.layers.conv import Conv, DepthwiseConv
from jaxpapers.layers.norm import BatchNorm, LayerNorm
from jaxpapers.layers.regularize import drop_path

EPS = 1e-6  # of every norm of the network
# Recomputed in the backward pass: their factors would be kept as further maps of the widest size, and that memory
# traffic costs more than the arithmetic (a training step of EMO-1M takes 0.83 of the time on CPU).
silu = jax.checkpoint(nn.silu)
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'silu': silu,
  'gelu': jax.checkpoint(functools.partial(nn.gelu, approximate=False)),
  'relu': nn.relu,
  'relu6': nn.relu6,
  'hard_swish': nn.hard_swish,
  'sigmoid': nn.sigmoid,
  'tanh': nn.tanh,
  'none': lambda x: x,
}
NORMS = ('bn', 'ln', 'none')


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
  """The activation of that name.

  Raises:
    ValueError: listing the known ones.
  """
  if name not in ACTIVATIONS:
    raise ValueError(f'Unknown activation {name!r}; known: {", ".join(ACTIVATIONS)}.')
  return ACTIVATIONS[name]


class MetaMobileBlock(nn.Module):
  """One residual shape for MobileNet's block, attention and the feed-forward network: x + S(F(E(x))).

  E and S are 1x1 maps between `channels` and int(channels * expansion); F keeps the shape. Paper section 2.2:
  identity and expansion 4 is a feed-forward network, attention and 1 is multi-head self-attention, a 3x3 depthwise
  convolution and 6 is MobileNetV2's inverted residual.

  Attributes:
    operator: F, on [batch, height, width, int(channels * expansion)]; a function or a Flax module.
    expansion: lambda.
    use_bias: of both maps.
    dtype: of the computation; None is that of the input.
  """

  operator: Callable[[jax.Array], jax.Array] = lambda x: x
  expansion: float = 4.0
  use_bias: bool = True
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, height, width, channels] -> the same shape."""
    channels = x.shape[-1]
    y = Conv(int(channels * self.expansion), use_bias=self.use_bias, dtype=self.dtype, name='expand')(x)
    y = self.operator(y)
    return x + Conv(channels, use_bias=self.use_bias, dtype=self.dtype, name='shrink')(y)


class SqueezeExcite(nn.Module):
  """Gates channels by their mean over the map (Hu et al., CVPR 2018).

  Attributes:
    hidden: width between the two maps.
    act: name of the activation between them.
    dtype: of the computation; None is that of the input.
  """

  hidden: int
  act: str = 'silu'
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, height, width, channels] -> the same shape."""
    mean = x.mean((1, 2), keepdims=True, dtype=jnp.float32).astype(self.dtype or x.dtype)
    hidden = activation(self.act)(Conv(self.hidden, dtype=self.dtype, name='reduce')(mean))
    return x * nn.sigmoid(Conv(x.shape[-1], dtype=self.dtype, name='expand')(hidden))


class IRMB(nn.Module):
  """Inverted residual mobile block: window attention whose values are expanded, then a depthwise convolution.

  Paper section 2.3, with the order of operations of the released models.

  Attributes:
    features: output channels.
    expansion: lambda; the block works in M = int(channels * lambda) channels.
    kernel_size: of the depthwise convolution.
    stride: of the depthwise convolution.
    norm: 'bn', 'ln' (per pixel) or 'none', of the input.
    act: name of the activation after the values (and in squeeze-and-excitation).
    norm_in: normalise the input.
    value_projection: without attention, expand by a 1x1 map; with it the values always are.
    skip: add the input, and inside it the depthwise convolution's input, where shapes allow.
    se_ratio: hidden width of squeeze-and-excitation relative to M; 0 leaves it out.
    attention: attention inside windows, or none.
    head_width: channels per head; must divide the input channels.
    window: side of the windows; 0 (or -1) is one window, the whole map.
    partition: 'grid' (strided windows), 'block' (contiguous ones) or 'hybrid' (the sum of both, EMOv2).
    qkv_bias: biases of the q, k and v maps.
    attn_pre: attend over the input and expand afterwards (the released models); else expand first.
    v_group: the value map is grouped by head.
    attn_drop: dropout on attention weights.
    drop: dropout before the last map.
    drop_path: probability of dropping the residual branch of an example.
    dtype: compute precision; norms and softmax stay float32. None is that of the input.
    axis_name: pmap axis that batch statistics are shared over.
  """

  features: int
  expansion: float = 4.0
  kernel_size: int = 3
  stride: int = 1
  norm: str = 'bn'
  act: str = 'silu'
  norm_in: bool = True
  value_projection: bool = True
  skip: bool = True
  se_ratio: float = 0.0
  attention: bool = True
  head_width: int = 64
  window: int = 7
  partition: str = 'grid'
  qkv_bias: bool = True
  attn_pre: bool = True
  v_group: bool = False
  attn_drop: float = 0.0
  drop: float = 0.0
  drop_path: float = 0.0
  dtype: Any = None
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False, batch_statistics: bool | None = None) -> jax.Array:
    """Applies the block.

    Args:
      x: [batch, height, width, channels].
      train: dropout and drop path are active (needs a 'dropout' rng where their rates are not 0).
      batch_statistics: normalise by the batch and update the running statistics; None is `train`.

    Returns:
      [batch, ceil(height / stride), ceil(width / stride), features].

    Raises:
      ValueError: for options that do not fit the channels, each named.
    """
    if x.ndim != 4:
      raise ValueError(f'iRMB takes [batch, height, width, channels], not an array of shape {x.shape}.')
    channels = x.shape[-1]
    running = not (train if batch_statistics is None else batch_statistics)
    batch_norm = functools.partial(BatchNorm, eps=EPS, dtype=self.dtype, axis_name=self.axis_name)
    act = activation(self.act)
    skip = self.skip and channels == self.features and self.stride == 1
    z = x
    if self.norm_in and self.norm == 'bn':
      z = batch_norm(name='norm')(x, running)
    elif self.norm_in and self.norm == 'ln':
      z = LayerNorm(epsilon=EPS, dtype=self.dtype or x.dtype, name='norm')(x)
    elif self.norm not in NORMS:
      raise ValueError(f'Unknown norm {self.norm!r}; known: {", ".join(NORMS)}.')
    if self.attention:
      y = self._attention(z, act, train)
    elif self.value_projection:
      y = act(self._value_map(channels)(z))
    else:
      y = z
    width = y.shape[-1]
    padding = -(-(self.kernel_size - self.stride) // 2)
    local = DepthwiseConv(self.kernel_size, self.stride, padding, dtype=self.dtype, name='local')(y)
    local = silu(batch_norm(name='local_norm')(local, running))
    if self.se_ratio > 0:
      local = SqueezeExcite(round(width * self.se_ratio), self.act, self.dtype, name='se')(local)
    y = y + local if skip else local
    y = nn.Dropout(self.drop, deterministic=not train)(y)
    y = Conv(self.features, use_bias=False, dtype=self.dtype, name='proj')(y)
    if not skip:
      return y
    if train and self.drop_path > 0:
      y = drop_path(y, self.drop_path, self.make_rng('dropout'))
    return x + y

  def _value_map(self, channels: int, groups: int = 1) -> Conv:
    width = int(channels * self.expansion)
    return Conv(width, groups=groups, use_bias=self.qkv_bias, dtype=self.dtype, name='v')

  def _attention(self, z: jax.Array, act: Callable[[jax.Array], jax.Array], train: bool) -> jax.Array:
    """[batch, height, width, channels] -> [batch, height, width, M]."""
    channels, (height, width) = z.shape[-1], z.shape[1:3]
    if channels % self.head_width:
      raise ValueError(f'iRMB: head_width {self.head_width} does not divide the {channels} input channels.')
    heads = channels // self.head_width
    values = int(channels * self.expansion)
    if values % heads and (self.v_group or not self.attn_pre):
      reason = 'v_group' if self.v_group else 'attn_pre=False'
      raise ValueError(f'iRMB: {values} expanded channels cannot be split over {heads} heads, as {reason} needs.')
    if self.window < -1:
      raise ValueError(f'iRMB: window {self.window} is negative; 0 (or -1) is one window over the whole map.')
    if self.partition not in (*windows.PARTITIONS, 'hybrid'):
      raise ValueError(f'Unknown partition {self.partition!r}; known: grid, block, hybrid.')
    window = (self.window, self.window) if self.window > 0 else (height, width)
    padded = windows.pad_to_windows(z, window)
    qk_map = Conv(2 * channels, use_bias=self.qkv_bias, dtype=self.dtype, name='qk')
    v_map = self._value_map(channels, heads if self.v_group else 1)
    drop = nn.Dropout(self.attn_drop, deterministic=not train, name='attn_drop')
    qk = qk_map(padded)
    source = padded if self.attn_pre else act(v_map(padded))
    kinds = windows.PARTITIONS if self.partition == 'hybrid' else (self.partition,)
    y = 0.0
    for kind in kinds:
      q, k = jnp.split(windows.partition(qk, window, kind), 2, axis=-1)
      weights = windows.attention_weights(q, k, heads)
      self.sow('intermediates', f'attention_{kind}', weights)
      mixed = windows.attend(drop(weights), windows.partition(source, window, kind))
      y = y + windows.merge(mixed, window, padded.shape[1:3], kind)
    y = y[:, :height, :width]
    return act(v_map(y)) if self.attn_pre else y
