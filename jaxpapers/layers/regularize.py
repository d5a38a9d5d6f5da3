"""Regularisation that acts on activations."""

import jax
import jax.numpy as jnp


def drop_path(x: jax.Array, rate: float | jax.Array, key: jax.Array) -> jax.Array:
  """Stochastic depth: drops whole examples of a residual branch, and scales the others up to keep the mean.

  Huang et al., Deep Networks with Stochastic Depth (ECCV 2016).

  Args:
    x: [batch, ...], the branch before it is added.
    rate: probability of dropping an example, in [0, 1).
    key: random key.

  Returns:
    [batch, ...], zero for dropped examples, x / (1 - rate) for the others.
  """
  keep = 1.0 - rate
  kept = jax.random.bernoulli(key, keep, (x.shape[0],) + (1,) * (x.ndim - 1))
  return jnp.where(kept, x / keep, jnp.zeros((), x.dtype)).astype(x.dtype)
