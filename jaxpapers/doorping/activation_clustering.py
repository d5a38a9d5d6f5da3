"""Activation clustering: an attacked class falls into two clusters (Chen et al., SafeAI 2019)."""

import warnings
from typing import NamedTuple

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import silhouette_score


class Clusters(NamedTuple):
  """Two clusters of one class.

  Attributes:
    small: [images] bool, members of the smaller cluster.
    share: of the smaller cluster, 0 to 0.5.
    silhouette: -1 to 1; 0 where there are no two clusters.
    flagged: whether the class looks attacked.
  """

  small: np.ndarray
  share: float
  silhouette: float
  flagged: bool


def cluster(
  features: np.ndarray, dimensions: int = 10, seed: int = 0, share_limit: float = 0.35, silhouette_limit: float = 0.15
) -> Clusters:
  """Clusters the features of one class.

  Args:
    features: [images, units]; at least three images.
    dimensions: principal components that are kept, fewer where there are fewer images.
    seed: of k-means.
    share_limit: a smaller share of the smaller cluster is suspicious.
    silhouette_limit: a larger silhouette is suspicious.

  Raises:
    ValueError: for fewer than three images.
  """
  features = np.asarray(features, np.float64)
  if len(features) < 3:
    raise ValueError(f'Activation clustering needs at least 3 images of a class, not {len(features)}.')
  components = min(dimensions, len(features) - 1, features.shape[1])
  if np.ptp(features, axis=0).max() == 0.0:
    return Clusters(np.zeros(len(features), bool), 0.0, 0.0, False)
  reduced = PCA(components, random_state=seed).fit_transform(features)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', ConvergenceWarning)  # fewer distinct points than clusters
    member = KMeans(2, n_init=10, random_state=seed).fit_predict(reduced)
  counts = np.bincount(member, minlength=2)
  small = member == np.argmin(counts)
  share = counts.min() / len(features)
  silhouette = float(silhouette_score(reduced, member)) if counts.min() else 0.0
  return Clusters(small, float(share), silhouette, bool(share < share_limit or silhouette > silhouette_limit))
