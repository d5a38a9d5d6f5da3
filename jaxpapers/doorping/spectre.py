"""SPECTRE: spectral signatures after whitening by the clean covariance (Hayase et al., ICML 2021)."""

import chex
import jax
import jax.numpy as jnp


def whiten(features: jax.Array, clean_features: jax.Array, dimensions: int, ridge: float = 1e-3) -> jax.Array:
  """Projects on the leading directions of the class and whitens there by the covariance of clean images.

  Args:
    features: [images, units] of one class.
    clean_features: [clean images, units] of clean images.
    dimensions: leading singular directions of the centred features that are kept.
    ridge: added to the clean standard deviations (to the diagonal alone) before they are inverted.

  Returns:
    [dimensions, images].
  """
  chex.assert_rank([features, clean_features], 2)
  chex.assert_equal_shape_suffix([features, clean_features], 1)
  mean = features.mean(axis=0)
  directions = jnp.linalg.svd((features - mean).T, full_matrices=False)[0][:, :dimensions]
  projected, clean = directions.T @ (features - mean).T, directions.T @ (clean_features - mean).T
  covariance = jnp.atleast_2d(jnp.cov(clean))
  variances, axes = jnp.linalg.eigh(covariance)
  scale = 1.0 / (jnp.sqrt(jnp.maximum(variances, 0.0)) + ridge)
  return (axes * scale) @ axes.T @ (projected - clean.mean(axis=1, keepdims=True))


def que_scores(whitened: jax.Array, alpha: float = 4.0, elementwise: bool = False) -> jax.Array:
  """Quantum-entropy scores h^T Q h / tr Q, Q = exp(alpha (S - I) / (||S||_2 - 1)), S the second moment.

  Args:
    whitened: [dimensions, images].
    alpha: sharpness: 0 is the plain squared norm, infinity the top direction alone.
    elementwise: the exponential entry by entry, as the authors' script has it, instead of that of the matrix. It
      depends on the signs of the singular vectors that whitened the features, which are arbitrary.

  Returns:
    [images].
  """
  chex.assert_rank(whitened, 2)
  size, images = whitened.shape
  second = whitened @ whitened.T / images
  excess = jnp.linalg.norm(second, ord=2) - 1.0
  exponent = alpha * (second - jnp.eye(size, dtype=second.dtype)) / excess
  if elementwise:
    q = jnp.exp(exponent)
  else:
    values, vectors = jnp.linalg.eigh(exponent)
    # A common factor of Q cancels against its trace: without it nothing overflows.
    q = (vectors * jnp.exp(values - values.max())) @ vectors.T
  return jnp.sum(whitened * (q @ whitened), axis=0) / jnp.trace(q)


def suspicious(scores: jax.Array, count: int) -> jax.Array:
  """Indices [count] of the highest scores [images], the highest first."""
  return jnp.argsort(-scores, stable=True)[:count]
