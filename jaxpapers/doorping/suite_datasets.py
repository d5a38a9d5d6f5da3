"""Defences of the suite that look at the distilled set."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.doorping import activation_clustering, scan, spectral, spectre
from jaxpapers.doorping.defence import Outcome, detection
from jaxpapers.doorping.suite_setting import Attacked, Setting, others, over_lanes


def _features(setting: Setting, params: Any, images: jax.Array) -> jax.Array:
  """Distilled features [classes, images per class, units], by class."""
  features = setting.network.forward(params, images)[1]
  return features[jnp.asarray(setting.rows)]


def _per_image(setting: Setting, scores: np.ndarray, **rest: Any) -> Outcome:
  """Outcome of per-image scores [lanes, classes, images per class]: the target's class against the others."""
  suspects, rest_of = scores[:, setting.target], others(np.moveaxis(scores, 1, -1), setting.target)
  auroc, tpr = np.mean([detection(s, o) for s, o in zip(suspects, rest_of, strict=True)], axis=0)
  details = {'scores': scores, **rest.pop('details', {})}
  return Outcome('dataset', suspects, rest_of, float(auroc), float(tpr), details=details, **rest)


def by_spectral_signatures(setting: Setting) -> Callable[[Attacked], Outcome]:
  """Spectral signatures: scores of every distilled image, and which are removed."""

  def one(setting, params, images, trigger):
    del trigger
    features = _features(setting, params, images)
    scores = jax.vmap(spectral.spectral_scores)(features)
    return scores, jax.vmap(lambda s: spectral.removed(s, setting.options.ratio))(scores)

  run = over_lanes(setting, one)

  def over(attacked):
    scores, removed = run(attacked)
    return _per_image(setting, scores, details={'removed': removed})

  return over


def by_spectre(setting: Setting) -> Callable[[Attacked], Outcome]:
  """SPECTRE: scores of every distilled image after whitening by the trusted images of its class."""

  def one(setting, params, images, trigger):
    del trigger
    trusted = setting.trusted
    clean = setting.network.forward(params, trusted.images)[1]
    features = _features(setting, params, images)
    size = min(setting.options.dimensions, features.shape[1] - 1)

    def of_class(args):
      rows, label = args
      # The covariance of a class is that of its own trusted images about their mean.
      weights = (trusted.labels == label).astype(clean.dtype)[:, None]
      mean = jnp.sum(weights * clean, axis=0) / jnp.maximum(weights.sum(), 1.0)
      spread = jnp.where(weights > 0, clean - mean, 0.0) * jnp.sqrt(len(clean) / jnp.maximum(weights.sum(), 1.0))
      return spectre.que_scores(spectre.whiten(rows - mean, spread, size, 1e-2))

    return jax.lax.map(of_class, (features, jnp.arange(setting.classes)))

  run = over_lanes(setting, one)
  return lambda attacked: _per_image(setting, run(attacked))


def by_scan(setting: Setting, key: jax.Array) -> Callable[[Attacked], Outcome]:
  """SCAn: one index per class, large where a class looks like two."""
  start = jax.random.uniform(key, setting.rows.shape)

  def one(setting, params, images, trigger):
    del trigger
    trusted = setting.trusted
    clean = setting.network.forward(params, trusted.images)[1]
    features = _features(setting, params, images)
    # Fewer clean images than units: the leading directions of the clean features carry what can be estimated.
    size = min(clean.shape[1], len(trusted.images) // 4, 32)
    basis = jnp.linalg.svd(clean - clean.mean(axis=0), full_matrices=False)[2][:size].T
    covariances = scan.decompose(clean @ basis, trusted.labels, setting.classes, ridge=1e-3)
    return scan.scan_scores(features @ basis, covariances, start)

  run = over_lanes(setting, one)

  def over(attacked):
    ratios, index, members = run(attacked)
    flagged = index > scan.LIMIT
    return _per_image(
      setting,
      np.repeat(index[:, :, None], members.shape[2], axis=2),
      flagged=float(flagged[:, setting.target].mean()),
      false_flags=float(others(flagged, setting.target).mean()),
      details={'ratio': ratios, 'index': index},
    )

  return over


def by_clustering(setting: Setting) -> Callable[[Attacked], Outcome]:
  """Activation clustering: silhouette and share of the smaller of two clusters, per class."""

  def one(setting, params, images, trigger):
    del trigger
    return _features(setting, params, images)

  run = over_lanes(setting, one)

  def over(attacked):
    if setting.rows.shape[1] < 3:
      return Outcome('dataset', np.zeros(0), np.zeros(0))
    clusters = [[activation_clustering.cluster(rows) for rows in lane] for lane in run(attacked)]
    flagged = np.asarray([[c.flagged for c in lane] for lane in clusters])
    silhouettes = np.asarray([[c.silhouette for c in lane] for lane in clusters])
    scores = np.repeat(silhouettes[:, :, None], setting.rows.shape[1], axis=2)
    return _per_image(
      setting,
      scores,
      flagged=float(flagged[:, setting.target].mean()),
      false_flags=float(others(flagged, setting.target).mean()),
      details={'silhouettes': silhouettes, 'shares': np.asarray([[c.share for c in lane] for lane in clusters])},
    )

  return over
