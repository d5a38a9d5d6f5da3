"""Convolutions for every room: one name each, equal numerics on every backend, the formulation chosen per backend.

XLA's CPU backend runs grouped convolutions, and ordinary ones over tiny maps, many times slower than a few shifted
slices do; on GPU and TPU the native convolution wins. `implementation='auto'` chooses when the program is lowered.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpapers.layers.shifted import shifted_depthwise, shifted_depthwise_vjp

Dtype = Any
Initializer = Callable[[jax.Array, tuple[int, ...], Dtype], jax.Array]
IMPLEMENTATIONS = ('auto', 'native', 'shifted')
SMALL_MAP = 16  # output pixels up to which slices and one matmul beat XLA's CPU convolution


def torch_uniform(fan_in: int) -> Initializer:
  """PyTorch's default for convolution and linear weights and biases: uniform in +-1/sqrt(fan_in).

  Args:
    fan_in: inputs of one output unit, (channels / groups) * kernel height * kernel width.
  """
  bound = 1.0 / math.sqrt(fan_in)

  def init(key: jax.Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def conv_output_size(size: int, kernel_size: int, stride: int, padding: int, dilation: int = 1) -> int:
  """Pixels along one axis after a convolution with `padding` zeros on both sides."""
  return (size + 2 * padding - dilation * (kernel_size - 1) - 1) // stride + 1


def _check(x: jax.Array, kernel_shape: tuple[int, ...], stride: int, padding: int, dilation: int, name: str) -> None:
  if x.ndim != 4:
    raise ValueError(f'{name} takes [batch, height, width, channels], not an array of shape {x.shape}.')
  for axis, size, k in (('height', x.shape[1], kernel_shape[0]), ('width', x.shape[2], kernel_shape[1])):
    if conv_output_size(size, k, stride, padding, dilation) < 1:
      raise ValueError(f'{name}: {axis} {size} with padding {padding} is smaller than the kernel, {k}.')


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _depthwise(x, kernel, stride, padding, implementation):
  native = functools.partial(_native_depthwise, stride=stride, padding=padding)
  shifted = functools.partial(shifted_depthwise, stride=stride, padding=padding)
  return _choose(implementation, native, shifted)(x, kernel)


def _depthwise_forward(x, kernel, stride, padding, implementation):
  return _depthwise(x, kernel, stride, padding, implementation), (x, kernel)


def _depthwise_backward(stride, padding, implementation, residuals, gradient):
  x, kernel = residuals

  def native(x, kernel, gradient):
    return jax.vjp(functools.partial(_native_depthwise, stride=stride, padding=padding), x, kernel)[1](gradient)

  shifted = functools.partial(shifted_depthwise_vjp, stride=stride, padding=padding)
  return _choose(implementation, native, shifted)(x, kernel, gradient)


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _choose(implementation: str, native: Callable, shifted: Callable) -> Callable:
  if implementation == 'auto':
    return lambda *args: jax.lax.platform_dependent(*args, cpu=shifted, default=native)
  return native if implementation == 'native' else shifted


def _native_depthwise(x, kernel, stride, padding):
  return _native(x, kernel[:, :, None, :], stride, padding, 1, x.shape[-1])


def _native(x, kernel, stride, padding, dilation, groups):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    ((padding, padding), (padding, padding)),
    rhs_dilation=(dilation, dilation),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


def depthwise_conv(
  x: jax.Array, kernel: jax.Array, stride: int = 1, padding: int | None = None, implementation: str = 'auto'
) -> jax.Array:
  """Depthwise convolution: every channel with its own kernel.

  Args:
    x: [batch, height, width, channels], floating.
    kernel: [kernel height, kernel width, channels], of the same dtype.
    stride: in both axes.
    padding: zeros on each of the four sides; None is half the kernel, so that stride 1 keeps the size.
    implementation: 'native' (XLA's grouped convolution), 'shifted' (a sum of shifted products with its own backward
      rule) or 'auto' (shifted on CPU, native elsewhere). All give the same values to rounding. Reverse-mode
      differentiation only, of any order.

  Returns:
    [batch, (height + 2 padding - kernel height) // stride + 1, likewise for width, channels], dtype of x.

  Raises:
    ValueError: for a wrong rank, channel count, implementation or a map that the kernel does not fit.
  """
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(f'Unknown implementation {implementation!r}; known: {", ".join(IMPLEMENTATIONS)}.')
  padding = kernel.shape[0] // 2 if padding is None else padding
  _check(x, kernel.shape, stride, padding, 1, 'depthwise_conv')
  if kernel.ndim != 3 or kernel.shape[-1] != x.shape[-1]:
    raise ValueError(f'depthwise_conv: kernel of shape {kernel.shape} does not fit {x.shape[-1]} channels.')
  return _depthwise(x, kernel, stride, padding, implementation)


def _patches_matmul(x, kernel, stride, padding, dilation):
  """Slices side by side in the channel axis, then one matmul."""
  rows, columns = kernel.shape[:2]
  height = conv_output_size(x.shape[1], rows, stride, padding, dilation)
  width = conv_output_size(x.shape[2], columns, stride, padding, dilation)
  x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  taps = [
    x[:, i * dilation :, j * dilation :][:, : (height - 1) * stride + 1 : stride, : (width - 1) * stride + 1 : stride]
    for i in range(rows)
    for j in range(columns)
  ]
  return jnp.concatenate(taps, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def conv(
  x: jax.Array,
  kernel: jax.Array,
  stride: int = 1,
  padding: int | None = None,
  dilation: int = 1,
  groups: int = 1,
  patches: bool = False,
) -> jax.Array:
  """Ordinary convolution; 1x1 kernels become a matmul, tiny maps on CPU slices and a matmul.

  Args:
    x: [batch, height, width, channels], floating.
    kernel: [kernel height, kernel width, channels / groups, features], of the same dtype.
    stride: in both axes.
    padding: zeros on each of the four sides; None is half the (dilated) kernel.
    dilation: distance of the kernel's taps.
    groups: of channels and features.
    patches: on CPU, slices and a matmul whatever the size of the map (groups=1). Inside a scan, and for many small
      networks under vmap, XLA's CPU convolution is several times slower.

  Returns:
    [batch, height', width', features], dtype of x.

  Raises:
    ValueError: for a wrong rank, channel count, or a map that the kernel does not fit.
  """
  rows, columns, per_group, features = kernel.shape
  padding = dilation * (rows - 1) // 2 if padding is None else padding
  _check(x, kernel.shape, stride, padding, dilation, 'conv')
  if per_group * groups != x.shape[-1] or features % groups:
    raise ValueError(
      f'conv: kernel of shape {kernel.shape} in {groups} groups does not fit {x.shape[-1]} input channels.'
    )
  centred = rows == columns and rows % 2 == 1 and padding == dilation * (rows // 2)
  if centred and rows > 1 and dilation >= max(x.shape[1:3]):
    # Only the middle tap ever meets the map; the others see padding (DeepLab's large dilations on small maps).
    return conv(x, kernel[rows // 2, columns // 2][None, None], stride, 0, groups=groups)
  if rows == columns == 1 and padding == 0:
    x = x[:, ::stride, ::stride]
    if groups == 1:
      return x @ kernel[0, 0]
    split = x.reshape(*x.shape[:-1], groups, per_group)
    matrices = kernel.reshape(per_group, groups, features // groups)
    return jnp.einsum('bhwgi,igo->bhwgo', split, matrices).reshape(*x.shape[:-1], features)
  native = functools.partial(_native, stride=stride, padding=padding, dilation=dilation, groups=groups)
  height = conv_output_size(x.shape[1], rows, stride, padding, dilation)
  width = conv_output_size(x.shape[2], columns, stride, padding, dilation)
  if groups == 1 and (patches or height * width <= SMALL_MAP):
    sliced = functools.partial(_patches_matmul, stride=stride, padding=padding, dilation=dilation)
    return jax.lax.platform_dependent(x, kernel, cpu=sliced, default=native)
  return native(x, kernel)


class Conv(nn.Module):
  """`conv` with parameters `kernel` [k, k, channels / groups, features] and `bias` [features], float32.

  Attributes:
    features: output channels.
    kernel_size: side of the square kernel.
    stride: in both axes.
    padding: zeros on each side; None is half the (dilated) kernel.
    dilation: distance of the kernel's taps.
    groups: of channels and features.
    use_bias: adds `bias`.
    kernel_init: None is PyTorch's default, `torch_uniform`.
    bias_init: None is PyTorch's default.
    dtype: of the computation and the result; None is that of the input.
    patches: see `conv`.
  """

  features: int
  kernel_size: int = 1
  stride: int = 1
  padding: int | None = None
  dilation: int = 1
  groups: int = 1
  use_bias: bool = True
  kernel_init: Initializer | None = None
  bias_init: Initializer | None = None
  dtype: Dtype | None = None
  patches: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, height, width, channels] -> [batch, height', width', features]."""
    channels = x.shape[-1]
    if channels % self.groups or self.features % self.groups:
      raise ValueError(f'{channels} channels to {self.features} features cannot be split into {self.groups} groups.')
    shape = (self.kernel_size, self.kernel_size, channels // self.groups, self.features)
    default = torch_uniform(math.prod(shape[:3]))
    kernel = self.param('kernel', self.kernel_init or default, shape, jnp.float32)
    dtype = self.dtype or x.dtype
    y = conv(x.astype(dtype), kernel.astype(dtype), self.stride, self.padding, self.dilation, self.groups, self.patches)
    if not self.use_bias:
      return y
    return y + self.param('bias', self.bias_init or default, (self.features,), jnp.float32).astype(dtype)


class DepthwiseConv(nn.Module):
  """`depthwise_conv` with parameters `kernel` [k, k, channels] and `bias` [channels], float32.

  Attributes:
    kernel_size: side of the square kernel.
    stride: in both axes.
    padding: zeros on each side; None is half the kernel.
    use_bias: adds `bias`.
    kernel_init: None is PyTorch's default, `torch_uniform`.
    bias_init: None is PyTorch's default.
    dtype: of the computation and the result; None is that of the input.
    implementation: 'auto', 'native' or 'shifted', see `depthwise_conv`.
  """

  kernel_size: int = 3
  stride: int = 1
  padding: int | None = None
  use_bias: bool = False
  kernel_init: Initializer | None = None
  bias_init: Initializer | None = None
  dtype: Dtype | None = None
  implementation: str = 'auto'

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, height, width, channels] -> [batch, height', width', channels]."""
    shape = (self.kernel_size, self.kernel_size, x.shape[-1])
    default = torch_uniform(self.kernel_size**2)
    kernel = self.param('kernel', self.kernel_init or default, shape, jnp.float32)
    dtype = self.dtype or x.dtype
    y = depthwise_conv(x.astype(dtype), kernel.astype(dtype), self.stride, self.padding, self.implementation)
    if not self.use_bias:
      return y
    return y + self.param('bias', self.bias_init or default, (x.shape[-1],), jnp.float32).astype(dtype)


def chunked(function: Callable[[jax.Array], Any], chunk: int) -> Callable[[jax.Array], Any]:
  """`function` over the leading axis in chunks: the same result where examples are independent, in less memory.

  On CPU, temporaries that fit the cache make inference with large maps about twice as fast.

  Args:
    function: array with leading axis `batch` -> pytree of arrays with leading axis `batch`.
    chunk: examples at a time; a batch that it does not divide is padded with zeros.
  """

  def apply(x: jax.Array) -> Any:
    batch = x.shape[0]
    if batch <= chunk:
      return function(x)
    count = -(-batch // chunk)
    padded = jnp.pad(x, ((0, count * chunk - batch),) + ((0, 0),) * (x.ndim - 1))
    outputs = jax.lax.map(function, padded.reshape(count, chunk, *x.shape[1:]))
    return jax.tree.map(lambda y: y.reshape(count * chunk, *y.shape[2:])[:batch], outputs)

  return apply
