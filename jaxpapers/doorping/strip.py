"""STRIP: a triggered input stays certain when other images are laid over it (Gao et al., ACSAC 2019)."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats


def entropies(
  logits_of: Callable[[jax.Array], jax.Array], images: jax.Array, overlays: jax.Array, blend: float | None = None
) -> jax.Array:
  """Mean entropy in bits of the predictions for each image with overlays.

  Args:
    logits_of: normalised images [batch, height, width, channels] -> logits [batch, classes].
    images: [N, height, width, channels], normalised.
    overlays: [n, height, width, channels] of clean images, normalised.
    blend: None adds the overlay to the image; a share in (0, 1) blends
      (1 - blend) image + blend overlay, as the STRIP paper does.

  Returns:
    [N]. One overlay is looked at after the other, so that n x N images are never held at once.
  """
  chex.assert_rank([images, overlays], 4)
  chex.assert_equal_shape_suffix([images, overlays], 3)

  def one(total, overlay):
    mixed = images + overlay if blend is None else (1.0 - blend) * images + blend * overlay
    log_p = jax.nn.log_softmax(logits_of(mixed))
    return total - jnp.sum(jnp.exp(log_p) * log_p, axis=-1) / jnp.log(2.0).astype(log_p.dtype), None

  total, _ = jax.lax.scan(one, jnp.zeros(images.shape[0], images.dtype), overlays)
  return total / overlays.shape[0]


def threshold(clean_entropies: np.ndarray, frr: float = 0.01) -> float:
  """The `frr` quantile of a normal distribution fitted to entropies [N] of clean images, and of those only."""
  mean, std = scipy.stats.norm.fit(np.asarray(clean_entropies, np.float64))
  return float(scipy.stats.norm.ppf(frr, mean, std))


def false_rejection(clean_entropies: np.ndarray, limit: float) -> float:
  """FRR: share of clean images whose entropy lies below the threshold."""
  return float(np.mean(np.asarray(clean_entropies) < limit))


def false_acceptance(triggered_entropies: np.ndarray, limit: float) -> float:
  """FAR: share of triggered images whose entropy does not lie below the threshold of the CLEAN entropies."""
  return float(np.mean(np.asarray(triggered_entropies) >= limit))
