"""How far a map can be trusted: equality test, false discoveries, reliability, agreement between maps."""

from typing import NamedTuple

import numpy as np
import sklearn.metrics
from scipy import stats

from jaxpapers.r2rise.importance import ImportanceMap, check_returns, importance_map, rank_cells


class EqualityTest(NamedTuple):
  """Are all frames equally important?

  Attributes:
    statistic: of the data.
    p_value: share of shuffles (the data among them) with a statistic at least as large.
    shuffled: [permutations] statistics of shuffled returns.
  """

  statistic: float
  p_value: float
  shuffled: np.ndarray


def equality_test(
  masks: np.ndarray, returns: np.ndarray, permutations: int = 999, seed: int = 0, statistic: str = 'variance'
) -> EqualityTest:
  """Permutation test of 'no cell matters': returns are shuffled against the masks.

  Source: the paper's question whether all frames matter equally; the test is this library's own.

  Args:
    masks: [N, ...cells] 0/1.
    returns: [N].
    permutations: shuffles.
    seed: of the shuffles.
    statistic: 'variance' of the contrast over cells, or 'max' of |contrast| over its standard error under the null.

  Raises:
    ValueError: for an unknown statistic, or if no cell is both kept and dropped.
  """
  if statistic not in ('variance', 'max'):
    raise ValueError(f"statistic={statistic!r} is neither 'variance' nor 'max'.")
  returns = check_returns(returns)
  m = np.asarray(masks, np.float64).reshape(len(returns), -1)
  c1 = m.sum(axis=0)
  used = (c1 >= 2) & (len(m) - c1 >= 2)
  if not used.any():
    raise ValueError('No cell is both kept and dropped at least twice: the masks tell nothing apart.')
  m, c1 = m[:, used], c1[used]
  # The contrast is linear in R: one matrix product gives it for every shuffle.
  weights = m / c1 - (1 - m) / (len(m) - c1)
  scale = np.sqrt((weights**2).sum(axis=0))
  rng = np.random.default_rng(seed)
  rows = np.concatenate([returns[None], rng.permuted(np.tile(returns, (permutations, 1)), axis=1)])
  contrasts = rows @ weights
  values = contrasts.var(axis=1) if statistic == 'variance' else np.abs(contrasts / scale).max(axis=1)
  # Equal arrangements of tied returns must count as equal in spite of rounding.
  at_least = values[1:] >= values[0] * (1 - 1e-12)
  return EqualityTest(float(values[0]), float((1 + at_least.sum()) / (1 + permutations)), values[1:])


def cell_p_values(importance: ImportanceMap) -> np.ndarray:
  """Two-sided p-values of 'this cell does not matter', 1 where there is no estimate."""
  value, error = np.asarray(importance.value, np.float64), np.asarray(importance.error, np.float64)
  t = np.abs(value) / np.where(error > 0, error, np.nan)
  return np.nan_to_num(2 * stats.t.sf(t, np.asarray(importance.freedom)), nan=1.0)


def discoveries(importance: ImportanceMap, rate: float = 0.1) -> np.ndarray:
  """Cells that matter at a false discovery rate (Benjamini and Hochberg 1995), bool in the map's shape."""
  p = cell_p_values(importance)
  return (stats.false_discovery_control(p.reshape(-1)) <= rate).reshape(p.shape)


def spearman_brown(r: float) -> float:
  """Reliability of a whole from the correlation of its halves."""
  return 2 * r / (1 + r) if r > -1 else -1.0


def split_half_reliability(
  masks: np.ndarray, returns: np.ndarray, estimator: str = 'contrast', pairs: bool = False
) -> float:
  """Spearman correlation of the maps of even and odd masks, corrected for length (Spearman-Brown).

  NaN if a map is constant, or a half has fewer than the two masks that a map takes.

  Source: this library's own.

  Args:
    masks: [N, ...cells].
    returns: [N].
    estimator: of the two maps.
    pairs: masks come in pairs that must stay together.
  """
  group = np.arange(len(returns)) // (2 if pairs else 1) % 2
  if np.bincount(group, minlength=2).min() < 2:
    return np.nan
  halves = [importance_map(masks[group == i], returns[group == i], estimator).value.reshape(-1) for i in (0, 1)]
  return spearman_brown(correlation(*halves))


def correlation(a: np.ndarray, b: np.ndarray, kind: str = 'spearman') -> float:
  """Correlation over the cells where both maps have a value; NaN for a constant map.

  Raises:
    ValueError: for maps of different shapes, or an unknown kind.
  """
  function = {'spearman': stats.spearmanr, 'kendall': stats.kendalltau, 'pearson': stats.pearsonr}.get(kind)
  if function is None:
    raise ValueError(f'kind={kind!r} is not known; known: spearman, kendall, pearson.')
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  if a.shape != b.shape:
    raise ValueError(f'Maps of shapes {a.shape} and {b.shape} cannot be compared.')
  both = np.isfinite(a) & np.isfinite(b)
  a, b = a[both], b[both]
  if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
    return float('nan')
  return float(function(a, b).statistic)


def top_overlap(a: np.ndarray, b: np.ndarray, k: int) -> float:
  """Jaccard index of the k most important cells of two maps."""
  first, second = (set(rank_cells(np.asarray(x))[:k].tolist()) for x in (a, b))
  return len(first & second) / len(first | second)


class Agreement(NamedTuple):
  """Two maps compared.

  Attributes:
    spearman, kendall, pearson: correlations over cells.
    low, high: 95 % bootstrap interval of Spearman's, over cells.
    overlap: Jaccard index of the top cells.
    ceiling: the Spearman correlation that two maps of this reliability could reach.
  """

  spearman: float
  kendall: float
  pearson: float
  low: float
  high: float
  overlap: float
  ceiling: float


def agreement(
  a: np.ndarray, b: np.ndarray, reliability: tuple[float, float], top: float = 0.2, bootstrap: int = 500, seed: int = 0
) -> Agreement:
  """How alike two maps are, beside what their noise allows.

  Source: the paper's question how maps of different learners relate; the statistics are this library's own.

  Args:
    a: map of one learner.
    b: map of another, of the same shape.
    reliability: split-half reliabilities of both; the ceiling is the root of their product (Spearman 1904).
    top: share of the cells that counts as top.
    bootstrap: resamples of the cells.
    seed: of the resamples.
  """
  a, b = np.asarray(a, np.float64).reshape(-1), np.asarray(b, np.float64).reshape(-1)
  values = [correlation(a, b, kind) for kind in ('spearman', 'kendall', 'pearson')]
  rng = np.random.default_rng(seed)
  draws = [correlation(a[i], b[i]) for i in rng.integers(0, len(a), (bootstrap, len(a)))]
  finite = np.asarray(draws)[np.isfinite(draws)]
  low, high = np.quantile(finite, (0.025, 0.975)) if finite.size else (np.nan, np.nan)
  # Python's max would keep 0 where a reliability is NaN: a constant map has no ceiling.
  ceiling = float(np.sqrt(np.prod(np.maximum(np.asarray(reliability, np.float64), 0.0))))
  return Agreement(*values, float(low), float(high), top_overlap(a, b, max(1, round(top * len(a)))), ceiling)


def truth_scores(value: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
  """(area under the ROC curve, average precision) of a map against planted importance; cells without value come last.

  Source: this library's own.

  Raises:
    ValueError: if the shapes differ or the truth knows one class only.
  """
  value, truth = np.asarray(value, np.float64), np.asarray(truth, bool)
  if value.shape != truth.shape:
    raise ValueError(f'The map has shape {value.shape}, the truth {truth.shape}.')
  if truth.all() or not truth.any():
    raise ValueError('truth holds one class only: a ROC curve needs important and unimportant cells.')
  score = np.where(np.isnan(value), np.nanmin(value, initial=0.0) - 1.0, value).reshape(-1)
  flat = truth.reshape(-1)
  return float(sklearn.metrics.roc_auc_score(flat, score)), float(sklearn.metrics.average_precision_score(flat, score))


class Stopping(NamedTuple):
  """Sequential stopping.

  Attributes:
    masks: [chunks] masks used after each chunk.
    reliability: [chunks] reliability then.
    stop: masks after which the rule stops, or None if it never does.
  """

  masks: np.ndarray
  reliability: np.ndarray
  stop: int | None


def sequential_reliability(
  masks: np.ndarray,
  returns: np.ndarray,
  chunk: int,
  target: float = 0.8,
  min_masks: int = 64,
  estimator: str = 'contrast',
  pairs: bool = False,
) -> Stopping:
  """Reliability after every chunk, and where a rule 'stop at `target`, never before `min_masks`' ends.

  Source: this library's own.
  """
  counts = np.arange(chunk, len(returns) + 1, chunk)
  curve = np.asarray([split_half_reliability(masks[:n], returns[:n], estimator, pairs) for n in counts])
  reached = np.flatnonzero((curve >= target) & (counts >= min_masks))
  return Stopping(counts, curve, int(counts[reached[0]]) if reached.size else None)
