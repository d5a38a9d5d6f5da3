"""Spectral signatures: attacked images stand out along the top singular vector (Tran et al., NeurIPS 2018)."""

import chex
import jax
import jax.numpy as jnp


def spectral_scores(features: jax.Array) -> jax.Array:
  """(<phi - mean, v>)^2 with v the top right singular vector of the centred features.

  Source: Tran et al., NeurIPS 2018.

  Args:
    features: [images, units] of one class.

  Returns:
    [images].
  """
  chex.assert_rank(features, 2)
  centred = features - features.mean(axis=0)
  return jnp.square(centred @ jnp.linalg.svd(centred, full_matrices=False)[2][0])


def uncentred_scores(features: jax.Array) -> jax.Array:
  """|<phi, v>|, v of the centred features but phi uncentred, as a widely used toolbox has it; shapes as above."""
  chex.assert_rank(features, 2)
  centred = features - features.mean(axis=0)
  return jnp.abs(features @ jnp.linalg.svd(centred, full_matrices=False)[2][0])


def removed(scores: jax.Array, ratio: float, factor: float = 1.5) -> jax.Array:
  """Which images of a class are dropped: the factor * ratio * images with the highest scores.

  Args:
    scores: [images].
    ratio: expected share of attacked images.
    factor: how many more than expected are dropped.

  Returns:
    bool [images]; of equal scores the first goes first.
  """
  count = min(int(factor * ratio * scores.shape[0]), scores.shape[0])
  order = jnp.argsort(-scores, stable=True)
  return jnp.zeros(scores.shape[0], bool).at[order[:count]].set(True)
