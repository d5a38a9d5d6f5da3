"""ConvNet and AlexNet, the two networks of the paper, with every option of the authors' classes."""

import math
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpapers.layers.conv import Conv, Initializer, torch_uniform
from jaxpapers.layers.norm import BatchNorm

NORMS = ('none', 'batchnorm', 'layernorm', 'instancenorm', 'groupnorm')
POOLINGS = ('avg', 'max', 'none')
HIDDEN = 192
ACTIVATIONS = {
  'relu': nn.relu,
  'sigmoid': nn.sigmoid,
  'leakyrelu': lambda x: nn.leaky_relu(x, 0.01),
}
# Weights of the second program (DD); biases are zero there. None: PyTorch's default for weights and biases.
INITIALIZERS: dict[str, Initializer | None] = {
  'default': None,
  'xavier': nn.initializers.variance_scaling(1.0, 'fan_avg', 'normal'),
  'xavier_unif': nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform'),
  'normal': nn.initializers.normal(0.02),
  'kaiming': nn.initializers.variance_scaling(2.0, 'fan_in', 'normal'),
  'kaiming_out': nn.initializers.variance_scaling(2.0, 'fan_out', 'normal'),
  'orthogonal': nn.initializers.orthogonal(),
}


class Outputs(NamedTuple):
  """What a network gives for a batch.

  Attributes:
    flat: [batch, features], the last map flattened in channel, row, column order.
    hidden: [batch, units] after the activation of the last hidden linear layer (layer -2); `flat` where there is none.
    logits: [batch, classes].
  """

  flat: jax.Array
  hidden: jax.Array
  logits: jax.Array


def lrn(x: jax.Array, size: int = 4, alpha: float = 0.001 / 9, beta: float = 0.75, k: float = 1.0) -> jax.Array:
  """Local response norm across channels: x / (k + alpha m)^beta, m the mean square over a window of channels.

  The window of an even size is not symmetric: size // 2 channels before, (size - 1) // 2 after, as in PyTorch; channels
  outside count as zero and the divisor stays `size`.

  Source: Krizhevsky et al., NeurIPS 2012.

  Args:
    x: [batch, height, width, channels].
    size: of the window.
    alpha: weight of the mean square.
    beta: exponent.
    k: added to the mean square.
  """
  chex.assert_rank(x, 4)
  square = jnp.pad(jnp.square(x), ((0, 0), (0, 0), (0, 0), (size // 2, (size - 1) // 2)))
  total = sum(square[..., i : i + x.shape[-1]] for i in range(size))
  return x / (k + alpha * total / size) ** beta


def avg_pool(x: jax.Array) -> jax.Array:
  """2x2 means with stride 2 of [batch, height, width, channels]; an odd last row or column is left out."""
  batch, height, width, channels = x.shape
  x = x[:, : height // 2 * 2, : width // 2 * 2].reshape(batch, height // 2, 2, width // 2, 2, channels)
  # Sums of slices: XLA's CPU reduction over both axes at once takes a quarter of a distillation step.
  x = x[:, :, 0] + x[:, :, 1]
  return 0.25 * (x[:, :, :, 0] + x[:, :, :, 1])


def flatten(x: jax.Array) -> jax.Array:
  """[batch, height, width, channels] -> [batch, channels * height * width], in the order of PyTorch's flatten."""
  return x.transpose(0, 3, 1, 2).reshape(len(x), -1)


class InstanceNorm(nn.Module):
  """Zero mean and unit variance over the pixels of every channel of every image, then a scale and a shift per channel.

  The same as a GroupNorm with one channel per group; means are taken over one axis at a time, which XLA's CPU backend
  does faster, above all in second derivatives.
  """

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, height, width, channels] -> the same shape."""
    scale = self.param('scale', nn.initializers.ones, x.shape[-1:])
    bias = self.param('bias', nn.initializers.zeros, x.shape[-1:])

    def mean(value):
      return value.mean(1, keepdims=True).mean(2, keepdims=True)

    centred = x - mean(x)
    return centred * jax.lax.rsqrt(mean(jnp.square(centred)) + 1e-5) * scale + bias


class _Network(nn.Module):
  """What both networks share: layers with the chosen initialisation, and three views of one forward pass."""

  def conv(self, features: int, kernel_size: int, padding: int, name: str) -> Conv:
    """A convolution with bias."""
    init, bias = _initializers(self.init_name)
    return Conv(features, kernel_size, 1, padding, kernel_init=init, bias_init=bias, patches=self.patches, name=name)

  def linear(self, features: int, fan_in: int, name: str) -> nn.Dense:
    """A linear layer with bias, in the dtype of its input."""
    init, bias = _initializers(self.init_name)
    default = torch_uniform(fan_in)
    return nn.Dense(features, kernel_init=init or default, bias_init=bias or default, name=name)

  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """[batch, height, width, channels] -> logits [batch, classes]; `train` takes batch statistics in batch norms."""
    return self.outputs(x, train).logits

  def penultimate(self, x: jax.Array) -> jax.Array:
    """[batch, height, width, channels] -> activations of the last hidden linear layer, after the nonlinearity."""
    return self.outputs(x).hidden


def _initializers(name: str) -> tuple[Initializer | None, Initializer | None]:
  if name not in INITIALIZERS:
    raise ValueError(f'Unknown initialisation {name!r}; known: {", ".join(INITIALIZERS)}.')
  init = INITIALIZERS[name]
  return init, None if init is None else nn.initializers.zeros


class ConvNet(_Network):
  """`depth` blocks of 3x3 convolution, norm, activation and pooling, then one or two linear layers.

  Attributes:
    classes: number of classes.
    width: channels of the convolutions.
    depth: number of blocks, 1 to 4.
    norm: one of NORMS; 'none' is what the paper's runs use.
    activation: one of ACTIVATIONS.
    pooling: one of POOLINGS, 2x2 with stride 2.
    head: 'two' linear layers with HIDDEN units between (the paper), or 'one' (the original DC).
    init_name: one of INITIALIZERS.
    patches: see `layers.conv.conv`; faster on CPU for narrow networks inside loops and under vmap.
  """

  classes: int
  width: int = 128
  depth: int = 3
  norm: str = 'none'
  activation: str = 'relu'
  pooling: str = 'avg'
  head: str = 'two'
  init_name: str = 'default'
  patches: bool = False

  @nn.compact
  def outputs(self, x: jax.Array, train: bool = False) -> Outputs:
    """[batch, height, width, channels] -> Outputs."""
    chex.assert_rank(x, 4)
    for what, value, known in (
      ('norm', self.norm, NORMS),
      ('activation', self.activation, ACTIVATIONS),
      ('pooling', self.pooling, POOLINGS),
      ('head', self.head, ('one', 'two')),
    ):
      if value not in known:
        raise ValueError(f'Unknown {what} {value!r} of a ConvNet; known: {", ".join(known)}.')
    act = ACTIVATIONS[self.activation]
    for i in range(self.depth):
      # Grey images get a wider border in the first layer: 28 -> 32 as the authors want 32 x 32 maps.
      padding = 3 if i == 0 and x.shape[-1] == 1 else 1
      x = self.conv(self.width, 3, padding, f'conv{i}')(x)
      x = act(self._normalise(x, f'norm{i}', train))
      if self.pooling != 'none':
        x = avg_pool(x) if self.pooling == 'avg' else nn.max_pool(x, (2, 2), (2, 2))
    if 0 in x.shape:
      raise ValueError(f'The images are too small for {self.depth} poolings.')
    flat = hidden = flatten(x)
    if self.head == 'two':
      hidden = nn.relu(self.linear(HIDDEN, flat.shape[1], 'hidden')(flat))  # whatever the convolutions have
    return Outputs(flat, hidden, self.linear(self.classes, hidden.shape[1], 'logits')(hidden))

  def _normalise(self, x: jax.Array, name: str, train: bool) -> jax.Array:
    if self.norm == 'batchnorm':
      return BatchNorm(name=name)(x, not train)
    if self.norm == 'layernorm':
      axes = (1, 2, 3)
      return nn.LayerNorm(1e-5, reduction_axes=axes, feature_axes=axes, use_fast_variance=False, name=name)(x)
    if self.norm == 'instancenorm':
      return InstanceNorm(name=name)(x)
    if self.norm == 'groupnorm':
      return nn.GroupNorm(4, epsilon=1e-5, use_fast_variance=False, name=name)(x)
    return x


class AlexNet(_Network):
  """The 32 x 32 AlexNet of both programs: two 5x5 convolutions with local response norm, three linear layers.

  Source: the authors' code.

  Attributes:
    classes: number of classes.
    init_name: one of INITIALIZERS.
    patches: see `layers.conv.conv`.
  """

  classes: int
  init_name: str = 'default'
  patches: bool = False

  @nn.compact
  def outputs(self, x: jax.Array, train: bool = False) -> Outputs:
    """[batch, 32, 32, channels] -> Outputs.

    Raises:
      ValueError: for images of another size.
    """
    chex.assert_rank(x, 4)
    if x.shape[1:3] != (32, 32):
      raise ValueError(f'AlexNet takes images of 32 x 32 pixels, not {x.shape[1]} x {x.shape[2]}.')
    x = lrn(_max_pool(nn.relu(self.conv(64, 5, 2, 'conv0')(x))))
    x = _max_pool(lrn(nn.relu(self.conv(64, 5, 2, 'conv1')(x))))
    flat = flatten(x)
    x = nn.relu(self.linear(384, flat.shape[1], 'linear0')(flat))
    hidden = nn.relu(self.linear(HIDDEN, 384, 'hidden')(x))
    return Outputs(flat, hidden, self.linear(self.classes, HIDDEN, 'logits')(hidden))


def _max_pool(x: jax.Array) -> jax.Array:
  return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


Network = ConvNet | AlexNet
NETWORKS = ('convnet', 'alexnet')


def network(name: str, classes: int, **options: Any) -> Network:
  """The network called `name`, 'convnet' or 'alexnet'; options as their attributes.

  Raises:
    ValueError: for an unknown name.
  """
  if name not in NETWORKS:
    raise ValueError(f'Unknown network {name!r}; known: {", ".join(NETWORKS)}.')
  return (ConvNet if name == 'convnet' else AlexNet)(classes, **options)


def init_params(model: Network, key: jax.Array, image_shape: tuple[int, int, int]) -> dict[str, Any]:
  """Fresh variables {'params': ...[, 'batch_stats': ...]} for images [height, width, channels]."""
  return model.init(key, jnp.zeros((1, *image_shape)))


def parameter_count(params: Any) -> int:
  """Number of trainable values."""
  return sum(math.prod(x.shape) for x in jax.tree.leaves(params))
