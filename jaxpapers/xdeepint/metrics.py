"""What scikit-learn lacks: normalised cross entropy, calibration, streaming AUC, sparsity. On the host, in NumPy."""

import warnings
from collections.abc import Mapping

import numpy as np
from sklearn.metrics import roc_auc_score


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
  """Area under the ROC curve, ties counted one half; NaN with a warning where one class is absent."""
  if np.unique(labels).size < 2:
    warnings.warn('AUC is undefined: only one class is present.', stacklevel=2)
    return float('nan')
  return float(roc_auc_score(labels, scores))


def log_loss(labels: np.ndarray, logits: np.ndarray) -> float:
  """Mean cross entropy of logits, in float64; nothing is clipped."""
  logits, labels = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
  return float(np.mean(np.logaddexp(0.0, logits) - labels * logits))


def logits_of(probabilities: np.ndarray) -> np.ndarray:
  """Logits of float32 probabilities, which are clipped to [1e-7, 1 - 1e-7]; float64."""
  p = np.clip(np.asarray(probabilities, np.float64), 1e-7, 1.0 - 1e-7)
  return np.log(p) - np.log1p(-p)


def normalized_cross_entropy(loss: float, labels: np.ndarray) -> float:
  """`loss` over the entropy of the base rate; 1 is a constant prediction. NaN where one class is absent."""
  rate = float(np.mean(labels))
  if not 0.0 < rate < 1.0:
    return float('nan')
  return loss / -(rate * np.log(rate) + (1.0 - rate) * np.log1p(-rate))


def calibration(labels: np.ndarray, probabilities: np.ndarray) -> float:
  """Mean prediction over base rate; 1 is calibrated on average."""
  return float(np.mean(probabilities) / np.mean(labels)) if np.any(labels) else float('nan')


def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> tuple[np.ndarray, ...]:
  """Mean prediction, observed rate and count of equally filled bins of the predictions, each [<= bins]."""
  order = np.argsort(probabilities, kind='stable')
  parts = [part for part in np.array_split(order, bins) if part.size]
  return (
    np.array([np.mean(probabilities[part]) for part in parts]),
    np.array([np.mean(labels[part]) for part in parts]),
    np.array([part.size for part in parts]),
  )


def score_histogram(labels: np.ndarray, logits: np.ndarray, bins: int = 2**16, limit: float = 20.0) -> np.ndarray:
  """Counts of logits for the negatives and the positives; histograms of parts add up to that of the whole.

  Args:
    labels: [rows], 0 or 1.
    logits: [rows]; beyond +-limit they fall into the outermost bins.
    bins: resolution.
    limit: of the logits.

  Returns:
    [2, bins] int64.
  """
  index = np.clip((np.asarray(logits, np.float64) + limit) * (bins / (2.0 * limit)), 0, bins - 1).astype(np.int64)
  labels = np.asarray(labels)
  return np.stack([np.bincount(index[labels == c], minlength=bins) for c in (0, 1)])


def auc_of_histogram(histogram: np.ndarray) -> float:
  """AUC from `score_histogram`, off by at most the mass that shares a bin; NaN where one class is absent."""
  negatives, positives = histogram.astype(np.float64)
  if not negatives.sum() or not positives.sum():
    return float('nan')
  below = np.cumsum(negatives) - negatives
  return float(np.sum(positives * (below + 0.5 * negatives)) / (negatives.sum() * positives.sum()))


def zero_rows(table: np.ndarray, seen: np.ndarray | None = None) -> float:
  """Share of rows that are exactly zero, among the `seen` ones if given ([rows] bool)."""
  zero = ~np.any(np.asarray(table), axis=-1)
  zero = zero if seen is None else zero[np.asarray(seen)]
  return float(np.mean(zero)) if zero.size else 0.0


def summary(labels: np.ndarray, logits: np.ndarray) -> Mapping[str, float]:
  """{'auc', 'logloss', 'nce', 'calibration'} of one model on one set."""
  loss = log_loss(labels, logits)
  probabilities = np.exp(-np.logaddexp(0.0, -np.asarray(logits, np.float64)))
  return {
    'auc': auc(labels, logits),
    'logloss': loss,
    'nce': normalized_cross_entropy(loss, labels),
    'calibration': calibration(labels, probabilities),
  }
