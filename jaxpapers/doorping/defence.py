"""What all defences share: how a network is given to them, and how a detection is judged."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.metrics import roc_auc_score

Params = Any
Forward = Callable[[Params, jax.Array], tuple[jax.Array, jax.Array]]
Head = Callable[[Params, jax.Array], jax.Array]


class Network(NamedTuple):
  """A victim's architecture as two pure functions.

  Attributes:
    forward: (params, normalised images [batch, height, width, channels]) -> (logits [batch, classes], features
      [batch, units]): the features are the post-ReLU output of the last hidden linear layer.
    head: (params, features [batch, units]) -> logits [batch, classes]: the rest of the network.
  """

  forward: Forward
  head: Head


class Outcome(NamedTuple):
  """What one defence says of one attack. A number that a defence does not give is NaN.

  Attributes:
    level: 'model', 'input' or 'dataset'.
    scores: suspicion (higher is worse) of what is attacked: victims, triggered images or the target class' images.
    clean_scores: suspicion of the same kind of thing where it is clean; the only source of thresholds.
    auroc: area under the ROC curve of `scores` against `clean_scores`.
    tpr: share of `scores` above the threshold that 1% of `clean_scores` exceed.
    flagged: share of victims whose target label or class the defence's own rule flags.
    false_flags: share of the other labels or classes that it flags.
    cta: clean test accuracy (before, after) for defences that change model or input.
    asr: share of triggered test images predicted as the target (before, after).
    seconds: wall time, compilation included.
    details: arrays for the pictures.
  """

  level: str
  scores: np.ndarray
  clean_scores: np.ndarray
  auroc: float = float('nan')
  tpr: float = float('nan')
  flagged: float = float('nan')
  false_flags: float = float('nan')
  cta: tuple[float, float] = (float('nan'), float('nan'))
  asr: tuple[float, float] = (float('nan'), float('nan'))
  seconds: float = 0.0
  details: Mapping[str, np.ndarray] = {}


def detection(scores: np.ndarray, clean_scores: np.ndarray, fpr: float = 0.01) -> tuple[float, float]:
  """(AUROC, TPR at the given FPR) of suspicion scores; the threshold is a quantile of the clean scores alone.

  Args:
    scores: [positives] of what is attacked, any shape.
    clean_scores: [negatives], any shape.
    fpr: share of clean scores that may exceed the threshold.

  Returns:
    Two floats; NaN where either side is empty or holds a NaN.
  """
  scores, clean_scores = np.ravel(scores).astype(np.float64), np.ravel(clean_scores).astype(np.float64)
  both = np.concatenate([clean_scores, scores])
  if not scores.size or not clean_scores.size or np.isnan(both).any():
    return float('nan'), float('nan')
  # AUROC is about ranks: infinite scores (a spread of zero) keep theirs.
  ranks = np.unique(both, return_inverse=True)[1]
  auroc = roc_auc_score(np.arange(len(both)) >= len(clean_scores), ranks)
  threshold = np.quantile(clean_scores, 1.0 - fpr, method='higher')
  return float(auroc), float(np.mean(scores > threshold))


def anomaly_index(values: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """How many deviations each value lies from the median: |v - median| / (1.4826 median|v - median|).

  The constant makes the median deviation of normal values their standard deviation (Wang et al. 2019, section V).

  Args:
    values: [labels] float.

  Returns:
    (index [labels]; the median; the scaled deviation). Where the deviation is 0, a value at the median has index 0
    and any other an infinite one.
  """
  chex.assert_rank(values, 1)
  median = jnp.median(values)
  away = jnp.abs(values - median)
  spread = 1.4826 * jnp.median(away)
  index = jnp.where(away == 0.0, 0.0, away / jnp.where(spread > 0.0, spread, 1.0))
  return jnp.where((spread == 0.0) & (away > 0.0), jnp.inf, index), median, spread


def success_rates(predicted: jax.Array, labels: jax.Array, triggered: jax.Array, target: int) -> jax.Array:
  """[clean accuracy, share of triggered images predicted as the target].

  Args:
    predicted: [batch] labels predicted for clean images.
    labels: [batch] true labels.
    triggered: [batch] labels predicted for the same images with the trigger.
    target: the attacked label.
  """
  chex.assert_equal_shape([predicted, labels, triggered])
  return jnp.stack([jnp.mean(predicted == labels), jnp.mean(triggered == target)])


def class_rows(labels: np.ndarray) -> np.ndarray:
  """Row numbers by class [classes, images per class] of a set with equally many images per class.

  Raises:
    ValueError: if the classes are of different sizes or a class has no image.
  """
  counts = np.bincount(np.asarray(labels))
  if len(set(counts.tolist())) != 1:
    raise ValueError(f'The defences need equally many distilled images per class, not {counts.tolist()}.')
  return np.argsort(np.asarray(labels), kind='stable').reshape(len(counts), -1)
