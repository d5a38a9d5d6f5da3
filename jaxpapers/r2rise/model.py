"""The networks: the Nature CNN of the paper's learners, a perceptron, and a table of logits."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpapers.layers.conv import torch_uniform

CONVOLUTIONS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # channels, kernel, stride; no padding


def as_input(observations: jax.Array) -> jax.Array:
  """What a network sees: pixels (uint8) divided by 255, bool as 0 and 1, floats as they are."""
  if observations.dtype == jnp.uint8:
    return observations.astype(jnp.float32) / 255.0
  return observations.astype(jnp.float32) if observations.dtype == jnp.bool_ else observations


def _dense(x: jax.Array, features: int, name: str) -> jax.Array:
  """A dense layer that starts as PyTorch's does."""
  init = torch_uniform(x.shape[-1])
  return nn.Dense(features, kernel_init=init, bias_init=init, param_dtype=x.dtype, name=name)(x)


class NatureFeatures(nn.Module):
  """The three convolutions of Mnih et al. (Nature 2015), ReLU after each."""

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """[batch, 84, 84, 4] -> maps [batch, 20, 20, 32], [batch, 9, 9, 64], [batch, 7, 7, 64]."""
    maps = []
    for index, (channels, kernel, stride) in enumerate(CONVOLUTIONS):
      init = torch_uniform(x.shape[-1] * kernel * kernel)
      conv = nn.Conv(
        *(channels, (kernel, kernel), (stride, stride), 'VALID'),
        kernel_init=init,
        bias_init=init,
        param_dtype=x.dtype,
        name=f'conv{index + 1}',
      )
      x = nn.relu(conv(x))
      maps.append(x)
    return tuple(maps)


def nature_features(params: Any) -> Callable[[jax.Array], jax.Array]:
  """Frozen features of pixels: observations [n, 84, 84, 4] -> [n, 3136], from parameters of `NatureFeatures`."""

  def features(observations: jax.Array) -> jax.Array:
    maps = NatureFeatures().apply({'params': jax.tree.map(jnp.asarray, params)}, as_input(observations))
    return maps[-1].reshape(observations.shape[0], -1)

  return features


class NatureCnn(nn.Module):
  """The paper's BC network: 84 x 84 x 4 pixels to action logits, 1,684,128 + 513 A parameters."""

  outputs: int

  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, 84, 84, 4] -> logits [batch, A]."""
    return self.activations(x)[-1]

  @nn.compact
  def activations(self, x: jax.Array) -> tuple[jax.Array, ...]:
    """The maps of the three convolutions, the hidden layer [batch, 512] and the logits [batch, A]."""
    maps = NatureFeatures(name='cnn')(x)
    hidden = nn.relu(_dense(maps[-1].reshape(x.shape[0], -1), 512, 'fc1'))
    return (*maps, hidden, _dense(hidden, self.outputs, 'output'))


class Mlp(nn.Module):
  """Dense layers `hidden` with an activation, then `outputs` numbers. Observations of any shape are flattened."""

  hidden: tuple[int, ...]
  outputs: int
  activation: Callable[[jax.Array], jax.Array] = nn.relu

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, ...] -> [batch, outputs]."""
    x = x.reshape(x.shape[0], -1)
    for index, width in enumerate(self.hidden):
      x = self.activation(_dense(x, width, f'fc{index + 1}'))
    return _dense(x, self.outputs, 'output')


class Table(nn.Module):
  """A logit per entry of a one-hot observation and action, starting near zero."""

  outputs: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, ...] one-hot -> [batch, outputs]."""
    init = nn.initializers.normal(0.01)
    return nn.Dense(self.outputs, use_bias=False, kernel_init=init, name='table')(x.reshape(x.shape[0], -1))
