"""Mixtures of bivariate Gaussians in a tangent plane."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

SIZE = 6  # numbers per component: log weight, two means, two log deviations, correlation


class Mixture(NamedTuple):
  """Components along the last axis of `log_weight`.

  Attributes:
    log_weight: [..., components], normalised.
    mean: [..., components, 2].
    log_scale: [..., components, 2], log standard deviations.
    correlation: [..., components] in (-1, 1).
  """

  log_weight: jax.Array
  mean: jax.Array
  log_scale: jax.Array
  correlation: jax.Array


def from_outputs(outputs: jax.Array, components: int, unit: float) -> Mixture:
  """The mixture that a network's outputs [..., 6 components] stand for; means and deviations in multiples of `unit`."""
  parts = outputs.reshape(*outputs.shape[:-1], components, SIZE)
  log_scale = jnp.clip(parts[..., 3:5], -5.0, 3.0) + jnp.log(unit)
  correlation = 0.99 * jnp.tanh(parts[..., 5])
  return Mixture(jax.nn.log_softmax(parts[..., 0], axis=-1), parts[..., 1:3] * unit, log_scale, correlation)


def log_density(mixture: Mixture, x: jax.Array) -> jax.Array:
  """Log density [...] in nats at x [..., 2]."""
  z = (x[..., None, :] - mixture.mean) * jnp.exp(-mixture.log_scale)
  rest = 1.0 - jnp.square(mixture.correlation)
  square = jnp.sum(jnp.square(z), axis=-1) - 2.0 * mixture.correlation * z[..., 0] * z[..., 1]
  log_each = -0.5 * square / rest - jnp.log(2 * jnp.pi) - jnp.sum(mixture.log_scale, axis=-1) - 0.5 * jnp.log(rest)
  return jax.nn.logsumexp(mixture.log_weight + log_each, axis=-1)


def sample(key: jax.Array, mixture: Mixture) -> jax.Array:
  """One draw [2] from a mixture without leading axes."""
  pick_key, noise_key = jax.random.split(key)
  pick = jax.random.categorical(pick_key, mixture.log_weight)
  a, b = jax.random.normal(noise_key, (2,), mixture.mean.dtype)
  rho = mixture.correlation[pick]
  noise = jnp.stack([a, rho * a + jnp.sqrt(1.0 - jnp.square(rho)) * b])
  return mixture.mean[pick] + jnp.exp(mixture.log_scale[pick]) * noise
