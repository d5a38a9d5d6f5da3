"""Losses of one-stage detectors. Elementwise values are returned; the caller weighs and sums."""

import chex
import jax
import jax.numpy as jnp
import optax


def sigmoid_focal(logits: jax.Array, targets: jax.Array, alpha: float = 0.25, gamma: float = 2.0) -> jax.Array:
  """Focal loss of independent binary decisions (RetinaNet, equation 5).

  -alpha_t (1 - p_t)**gamma log p_t, where p_t is the probability of the true side and alpha_t is `alpha` for positives,
  1 - alpha for negatives.

  Args:
    logits: [...].
    targets: [...] in {0, 1}.

  Returns:
    [...] of the logits' dtype.
  """
  chex.assert_equal_shape([logits, targets])
  targets = targets.astype(logits.dtype)
  cross_entropy = optax.losses.sigmoid_binary_cross_entropy(logits, targets)
  p = jax.nn.sigmoid(logits)
  wrong = p * (1 - targets) + (1 - p) * targets
  weight = alpha * targets + (1 - alpha) * (1 - targets)
  return weight * wrong**gamma * cross_entropy


def smooth_l1(predictions: jax.Array, targets: jax.Array, beta: float = 1.0) -> jax.Array:
  """0.5 d**2 / beta where |d| < beta, |d| - beta / 2 beyond; beta 0 is plain L1 (Fast R-CNN, equation 3)."""
  chex.assert_equal_shape([predictions, targets])
  distance = jnp.abs(predictions - targets)
  if beta == 0:
    return distance
  return jnp.where(distance < beta, 0.5 * distance**2 / beta, distance - 0.5 * beta)


def hard_negative_cross_entropy(
  logits: jax.Array,
  labels: jax.Array,
  weights: jax.Array,
  background: int,
  ratio: int = 3,
) -> jax.Array:
  """Softmax cross-entropy over all positives and the hardest `ratio` negatives per positive (SSD, section 2.2).

  Without positives there are no negatives either, so the sum is exactly 0.

  Args:
    logits: [anchors, classes with background].
    labels: [anchors] int in 0..background.
    weights: [anchors], 0 for anchors that do not count.
    background: the label of negatives.
    ratio: negatives kept per positive.

  Returns:
    scalar sum (not mean).
  """
  chex.assert_rank(logits, 2)
  chex.assert_equal_shape([labels, weights])
  losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels) * weights
  positive = labels < background
  hardness = jnp.where(positive, -1.0, jax.lax.stop_gradient(losses))
  # rank[i]: how many negatives are harder than i; the first of equals counts as harder.
  order = jnp.argsort(-hardness, stable=True)
  rank = jnp.zeros_like(order).at[order].set(jnp.arange(order.size))
  kept = positive | ((rank < ratio * positive.sum()) & ~positive)
  return jnp.sum(jnp.where(kept, losses, 0))
