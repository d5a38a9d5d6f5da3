"""Losses and counts for classification."""

import chex
import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
  """Softmax cross-entropy per example, in float32.

  With smoothing s: (1 - s) * (-log p_label) + s * mean over classes of (-log p) (Szegedy et al., arXiv 1512.00567).

  Args:
    logits: [..., classes].
    labels: int [...], or float [..., classes] distributions.
    smoothing: 0 to 1.

  Returns:
    float32 [...].
  """
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
  if jnp.issubdtype(labels.dtype, jnp.integer):
    chex.assert_equal_shape_prefix([logits, labels], labels.ndim)
    chex.assert_rank(labels, logits.ndim - 1)
    nll = -jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]
  else:
    chex.assert_equal_shape([logits, labels])
    nll = -jnp.sum(labels * log_p, axis=-1)
  return (1 - smoothing) * nll - smoothing * jnp.mean(log_p, axis=-1)


def top_k_correct(logits: jax.Array, labels: jax.Array, k: int = 1, valid: jax.Array | None = None) -> jax.Array:
  """How many labels are among the k largest logits; of equal logits the lower class comes first.

  Args:
    logits: [batch, classes]; a row with a NaN counts as wrong.
    labels: int [batch].
    k: at least 1.
    valid: bool [batch], False for padding; None counts every row.

  Returns:
    float32 scalar.
  """
  chex.assert_rank([logits, labels], [2, 1])
  own = jnp.take_along_axis(logits, labels[:, None], axis=1)
  before = (logits > own) | ((logits == own) & (jnp.arange(logits.shape[1]) < labels[:, None]))
  hit = (jnp.sum(before, axis=1) < k) & ~jnp.any(jnp.isnan(logits), axis=1)
  hit = hit if valid is None else hit & valid
  return jnp.sum(hit.astype(jnp.float32))
