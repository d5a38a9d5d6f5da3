"""Activation thresholds of the exits, from a pass over training images, as in the authors' code."""

import chex
import jax
import jax.numpy as jnp

from jaxpapers.predictive_exit.tables import Array

OFFICIAL_IMAGES, OFFICIAL_BATCH = 5000, 128
MODES = ('signed_mean', 'mean_abs', 'mean_max_abs')


def official_batches(images: int = OFFICIAL_IMAGES, batch_size: int = OFFICIAL_BATCH) -> int:
  """How many batches the authors' loop reads: it stops behind the batch whose index reaches images / batch size."""
  return -(-images // batch_size) + 1


def batch_activation(logits: Array, mode: str = 'signed_mean') -> jax.Array:
  """What one batch gives every exit.

  Args:
    logits: [batch, exits, classes] of the exit layers, without the classifier.
    mode: 'signed_mean' (official: the mean of the SIGNED logits), or the extensions 'mean_abs' and 'mean_max_abs' (mean
      over samples of the largest absolute logit).

  Returns:
    [exits].

  Raises:
    ValueError: for another mode.
  """
  chex.assert_rank(logits, 3)
  logits = jnp.asarray(logits)
  if mode == 'signed_mean':
    return logits.mean((0, 2))
  if mode == 'mean_abs':
    return jnp.abs(logits).mean((0, 2))
  if mode == 'mean_max_abs':
    return jnp.abs(logits).max(-1).mean(0)
  raise ValueError(f'The threshold mode {mode!r} is not known; known: {", ".join(MODES)}.')


def activation_thresholds(batches: Array) -> jax.Array:
  """Thresholds from what the batches gave: their mean with equal weights, and only then its absolute value.

  Source: the authors' code.

  Args:
    batches: [batches, exits] of `batch_activation`.

  Returns:
    [exits].
  """
  chex.assert_rank(batches, 2)
  return jnp.abs(jnp.mean(jnp.asarray(batches), axis=0))
