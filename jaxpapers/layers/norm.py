"""Normalisation with the running statistics and precision that released PyTorch models were trained with."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Dtype = Any


class BatchNorm(nn.Module):
  """Batch normalisation over all axes but the last; the running variance is the unbiased one.

  Differs from `flax.linen.BatchNorm`, which stores the biased variance: n / (n - 1) makes running statistics equal to
  PyTorch's. Statistics and the normalisation are float32 whatever the input.

  Attributes:
    eps: added to the variance.
    momentum: what the running statistics keep of their old value.
    dtype: of the result; None is that of the input.
    axis_name: a pmap axis over which statistics are shared; None keeps them per device (under jit: global).
    use_scale: multiplies by the parameter `scale`.
    use_bias: adds the parameter `bias`.
  """

  eps: float = 1e-5
  momentum: float = 0.9
  dtype: Dtype | None = None
  axis_name: str | None = None
  use_scale: bool = True
  use_bias: bool = True

  @nn.compact
  def __call__(self, x: jax.Array, use_running_average: bool) -> jax.Array:
    """[..., channels] -> the same shape; updates `batch_stats` {mean, var} unless `use_running_average`."""
    channels = x.shape[-1]
    dtype = self.dtype or x.dtype
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, (channels,), jnp.float32)
    running_var = self.variable('batch_stats', 'var', jnp.ones, (channels,), jnp.float32)
    if use_running_average:
      mean, var = running_mean.value, running_var.value
    else:
      mean, var, count = _statistics(x, None if self.is_initializing() else self.axis_name)
      if not self.is_initializing():
        keep, new = self.momentum, 1.0 - self.momentum
        running_mean.value = keep * running_mean.value + new * jax.lax.stop_gradient(mean)
        unbiased = var * (count / max(count - 1, 1))
        running_var.value = keep * running_var.value + new * jax.lax.stop_gradient(unbiased)
    factor = jax.lax.rsqrt(var + self.eps)
    if self.use_scale:
      factor = factor * self.param('scale', nn.initializers.ones, (channels,), jnp.float32)
    y = (x.astype(jnp.float32) - mean) * factor
    if self.use_bias:
      y = y + self.param('bias', nn.initializers.zeros, (channels,), jnp.float32)
    return y.astype(dtype)


class FrozenBatchNorm(nn.Module):
  """Batch normalisation with constants: scale, bias, mean and variance are no parameters and never change.

  Attributes:
    eps: added to the variance.
    dtype: of the result; None is that of the input.
  """

  eps: float = 1e-5
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array, use_running_average: bool = True) -> jax.Array:
    """[..., channels] -> the same shape; the constants are the collection `frozen`."""
    del use_running_average

    def constant(name, value):
      return self.variable('frozen', name, lambda: jnp.full(x.shape[-1], value, jnp.float32)).value

    factor = constant('scale', 1.0) * jax.lax.rsqrt(constant('var', 1.0) + self.eps)
    offset = constant('bias', 0.0) - constant('mean', 0.0) * factor
    return (x * factor + offset).astype(self.dtype or x.dtype)


def _statistics(x: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array, int]:
  """Mean, biased variance and number of values per channel, in float32 and in two passes."""
  x = x.astype(jnp.float32)
  axes = tuple(range(x.ndim - 1))
  count = x.size // x.shape[-1]
  mean = x.mean(axes)
  if axis_name is not None:
    mean = jax.lax.pmean(mean, axis_name)
    count *= jax.lax.axis_size(axis_name)
  var = jnp.square(x - mean).mean(axes)
  if axis_name is not None:
    var = jax.lax.pmean(var, axis_name)
  return mean, var, count


class LayerNorm(nn.LayerNorm):
  """Layer normalisation over the last axis in float32; eps 1e-6 and a variance in two passes are its defaults."""

  epsilon: float = 1e-6
  use_fast_variance: bool = False
