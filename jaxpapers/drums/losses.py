"""Token losses in nats."""

import chex
import jax
import jax.numpy as jnp
import optax


def token_nats(logits: jax.Array, ids: jax.Array) -> jax.Array:
  """Negative log-likelihood of every token but the first. Source: this library's own.

  Args:
    logits: [batch, time, n] float; row t predicts token t + 1.
    ids: [batch, time] int32 in 0 .. n - 1.

  Returns:
    [batch, time - 1] float32.
  """
  chex.assert_equal_shape_prefix([logits, ids], 2)
  return optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1].astype(jnp.float32), ids[:, 1:])


def weighted_mean(nats: jax.Array, weights: jax.Array) -> jax.Array:
  """Sum of `nats` [batch, time] by `weights`, over the sum of the weights; 0 where there are none."""
  chex.assert_equal_shape([nats, weights])
  return jnp.sum(nats * weights) / jnp.maximum(jnp.sum(weights), 1e-9)


def places_in(vocabulary: jax.Array, ids: jax.Array) -> jax.Array:
  """Index of every id in the sorted `vocabulary` [n]: the labels of a softmax that is restricted to it."""
  return jnp.searchsorted(vocabulary, ids).astype(jnp.int32)
