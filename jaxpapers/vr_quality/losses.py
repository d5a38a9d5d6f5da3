"""The loss: linear correlation of predictions and opinion scores in a batch, as in the authors' code."""

import chex
import jax
import jax.numpy as jnp

_EPSILON = 1e-8  # the official guard against division by zero


def plcc_loss(predictions: jax.Array, targets: jax.Array, floor: float = 1e-3) -> jax.Array:
  """1/8 mean((z(p) - z(y))^2) + 1/8 mean((rho z(p) - z(y))^2) = (1 - rho) / 4 + (1 - rho^2) / 8.

  0 at correlation 1, 0.375 at 0, 0.5 at -1. It fixes neither scale nor offset of the predictions.

  Source: the authors' code.

  Args:
    predictions: [batch], floating.
    targets: [batch].
    floor: standard deviations below it count as `floor`. 0 is the official loss, whose gradient is of order 1e7 where
      all predictions are equal; with 1e-3 it is of order 100 there, and nothing changes for other predictions.

  Returns:
    Scalar, of the dtype of the predictions.
  """
  chex.assert_rank([predictions, targets], 1)
  chex.assert_equal_shape([predictions, targets])
  p, y = _standardised(predictions, floor), _standardised(targets, floor)
  rho = jnp.mean(p * y)
  return (jnp.mean((p - y) ** 2) + jnp.mean((rho * p - y) ** 2)) / 8


def _standardised(x, floor):
  centred = x - jnp.mean(x)
  variance = jnp.mean(centred**2)
  constant = variance == 0
  # The inner `where` keeps the infinite slope of the root at 0 out of the gradient.
  deviation = jnp.where(constant, 0, jnp.sqrt(jnp.where(constant, 1, variance)))
  return centred / (jnp.maximum(deviation, floor) + _EPSILON)
