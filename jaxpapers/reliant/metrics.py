"""Fairness and utility of hard predictions on a set of nodes, on the host."""

import warnings
from collections.abc import Mapping

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score


class MissingGroupWarning(UserWarning):
  """A gap is undefined because a group has no member; it is reported as NaN."""


def predictions(logits: np.ndarray) -> np.ndarray:
  """Class of every row of logits or probabilities [N, C]; the first of ties."""
  return np.asarray(logits).argmax(axis=-1)


def _difference(hits: np.ndarray, sensitive: np.ndarray, name: str) -> float:
  groups = [hits[sensitive == value] for value in (0, 1)]
  if not all(group.size for group in groups):
    missing = [value for value, group in zip((0, 1), groups, strict=True) if not group.size]
    warnings.warn(f'{name} is undefined: no node has sensitive value {missing[0]}.', MissingGroupWarning, stacklevel=3)
    return float('nan')
  return float(abs(groups[0].mean() - groups[1].mean()))


def statistical_parity_gap(predicted: np.ndarray, sensitive: np.ndarray, positive: int = 1) -> float:
  """|P(p = positive | s = 0) - P(p = positive | s = 1)| in [0, 1].

  Source: Dwork et al., ITCS 2012, as the paper measures it.

  Args:
    predicted: [n] classes.
    sensitive: [n]; values other than 0 and 1 are in neither group.
    positive: the class that counts.

  Returns:
    NaN, with a MissingGroupWarning, where a group is empty.
  """
  return _difference(np.asarray(predicted) == positive, np.asarray(sensitive), 'dSP')


def equal_opportunity_gap(predicted: np.ndarray, labels: np.ndarray, sensitive: np.ndarray, positive: int = 1) -> float:
  """|P(p = positive | s = 0, y = positive) - P(p = positive | s = 1, y = positive)|; NaN as above.

  Source: Hardt et al., NeurIPS 2016.
  """
  members = np.asarray(labels) == positive
  return _difference(np.asarray(predicted)[members] == positive, np.asarray(sensitive)[members], 'dEO')


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
  """Area under the ROC curve; NaN with a warning where only one class is present."""
  if np.unique(labels).size < 2:
    warnings.warn('AUC is undefined: only one class is present.', MissingGroupWarning, stacklevel=2)
    return float('nan')
  return float(roc_auc_score(labels, scores))


def summary(
  probabilities: np.ndarray, labels: np.ndarray, sensitive: np.ndarray, positive: int = 1
) -> Mapping[str, float]:
  """{'accuracy', 'f1', 'auc', 'dsp', 'deo'} of one model on one set.

  Args:
    probabilities: [n, C].
    labels: [n].
    sensitive: [n].
    positive: class of F1, AUC and both gaps.
  """
  labels, predicted = np.asarray(labels), predictions(probabilities)
  return {
    'accuracy': float(accuracy_score(labels, predicted)),
    'f1': float(f1_score(labels == positive, predicted == positive, zero_division=0.0)),
    'auc': auc(labels == positive, np.asarray(probabilities)[:, positive]),
    'dsp': statistical_parity_gap(predicted, sensitive, positive),
    'deo': equal_opportunity_gap(predicted, labels, sensitive, positive),
  }


def group_confusion(
  probabilities: np.ndarray, labels: np.ndarray, sensitive: np.ndarray, positive: int = 1
) -> np.ndarray:
  """Shares of a group by label and prediction, [2 groups, 2 labels, 2 predictions]; 1 is the positive class.

  Args:
    probabilities: [n, C].
    labels: [n].
    sensitive: [n]; values other than 0 and 1 are in neither group.
    positive: that class.

  Returns:
    Each group's four shares add up to 1; NaN, with a MissingGroupWarning, for an empty group.
  """
  truth, predicted = np.asarray(labels) == positive, predictions(probabilities) == positive
  shares = np.full((2, 2, 2), np.nan)
  for group in (0, 1):
    mine = np.asarray(sensitive) == group
    if not mine.any():
      warnings.warn(f'No node has sensitive value {group}.', MissingGroupWarning, stacklevel=2)
      continue
    counts = np.zeros((2, 2))
    np.add.at(counts, (truth[mine].astype(int), predicted[mine].astype(int)), 1.0)
    shares[group] = counts / mine.sum()
  return shares


def agreement(probabilities: np.ndarray, teacher: np.ndarray) -> float:
  """Share of nodes on which student and teacher predict the same class."""
  return float(np.mean(predictions(probabilities) == predictions(teacher)))


def label_gap(labels: np.ndarray, sensitive: np.ndarray, positive: int = 1) -> float:
  """dSP of the labels themselves: what a perfect classifier shows."""
  return statistical_parity_gap(labels, sensitive, positive)
