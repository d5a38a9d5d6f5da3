"""Importance of cells from masks and returns, by sums that stream and merge.

A cell's importance is what the return gains when its frames are kept. Everything comes from `Statistics`, sums over
masks; adding two of them is the statistics of both sets. The functions take NumPy arrays (float64, for results) and
JAX arrays (inside a compiled step) alike.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import stats as scipy_stats

Array = Any  # numpy.ndarray or jax.Array
ESTIMATORS = ('contrast', 'raw_sum', 'rise', 'self_normalised', 'ridge', 'antithetic')


class Statistics(NamedTuple):
  """Sums over the masks seen so far; returns count from `reference`, which keeps squares small in float32.

  Attributes:
    reference: scalar that is subtracted from every return.
    n: number of masks.
    total, squares: sums of R and R^2.
    count: [F] sum of m.
    kept, kept_squares: [F] sums of m R and m R^2.
    pairs: sum of (R(2j) - R(2j + 1))^2, for antithetic masks.
    gram: [F, F] sum of m m', for ridge; None where it is not kept.
  """

  reference: Array
  n: Array
  total: Array
  squares: Array
  count: Array
  kept: Array
  kept_squares: Array
  pairs: Array
  gram: Array | None


class ImportanceMap(NamedTuple):
  """An estimate per cell.

  Attributes:
    value: NaN where the estimator compares kept with dropped and a cell was always kept, or never.
    error: standard error; NaN where the estimator has none, or an arm has fewer than two masks.
    freedom: degrees of freedom of the error.
  """

  value: Array
  error: Array
  freedom: Array


def importance_init(cells: int, gram: bool = False, xp: Any = np) -> Statistics:
  """Statistics of no masks over `cells` cells, as arrays of `xp` (numpy or jax.numpy)."""
  dtype = np.float64 if xp is np else None
  zero, row = xp.zeros((), dtype), xp.zeros(cells, dtype)
  square = xp.zeros((cells, cells), dtype) if gram else None
  return Statistics(zero, zero, zero, zero, row, row, row, zero, square)


def importance_update(stats: Statistics, masks: Array, returns: Array) -> Statistics:
  """Adds a chunk. Source: the sums of the authors' code, and squares for errors.

  Args:
    stats: the sums so far; the first chunk sets their reference to its mean return.
    masks: [n, F] or [n, ...] with F entries each, 0/1.
    returns: [n].
  """
  xp = stats.count.__array_namespace__()
  dtype = stats.count.dtype
  masks = xp.reshape(xp.asarray(masks, dtype=dtype), (masks.shape[0], -1))
  returns = xp.asarray(returns, dtype=dtype)
  reference = xp.where(stats.n == 0, xp.mean(returns), stats.reference)
  r = returns - reference
  even = r.shape[0] // 2 * 2
  return Statistics(
    reference,
    stats.n + r.shape[0],
    stats.total + xp.sum(r),
    stats.squares + xp.sum(r * r),
    stats.count + xp.sum(masks, axis=0),
    stats.kept + r @ masks,
    stats.kept_squares + (r * r) @ masks,
    stats.pairs + xp.sum((r[0:even:2] - r[1:even:2]) ** 2),
    None if stats.gram is None else stats.gram + masks.T @ masks,
  )


def importance_merge(a: Statistics, b: Statistics) -> Statistics:
  """The statistics of both sets of masks. Source: this library's own."""
  xp = a.count.__array_namespace__()
  b = rebase(b, xp.where(a.n == 0, b.reference, a.reference))
  merged = [None if x is None else x + y for x, y in zip(a, b, strict=True)]
  return Statistics(b.reference, *merged[1:])


def rebase(stats: Statistics, reference: Array) -> Statistics:
  """The same statistics with returns counted from another reference."""
  d = stats.reference - reference
  return stats._replace(
    reference=reference,
    total=stats.total + d * stats.n,
    squares=stats.squares + 2 * d * stats.total + d * d * stats.n,
    kept=stats.kept + d * stats.count,
    kept_squares=stats.kept_squares + 2 * d * stats.kept + d * d * stats.count,
  )


def finalise(stats: Statistics, estimator: str = 'contrast', p: float = 0.5, ridge: float = 0.1) -> ImportanceMap:
  """The map [F] of an estimator.

  Args:
    stats: sums over at least two masks.
    estimator: `contrast`, the mean return with a cell kept minus that with it dropped (Welch's standard error);
      `raw_sum`, the sum of m R, as the authors' program has it; `rise`, raw_sum / (N p); `self_normalised`, the mean
      return with the cell kept; `ridge`, all cells jointly by regression; `antithetic`, contrast with the standard
      error of pairs (m, 1 - m).
    p: keep probability, for `rise`.
    ridge: penalty per mask, for `ridge`.

  Raises:
    ValueError: for an unknown estimator, or `ridge` without the gram matrix.
  """
  if estimator not in ESTIMATORS:
    raise ValueError(f'estimator={estimator!r} is not known; known: {", ".join(ESTIMATORS)}.')
  xp = stats.count.__array_namespace__()
  n, c1, c0 = stats.n, stats.count, stats.n - stats.count
  none = xp.full(c1.shape, xp.nan, dtype=c1.dtype)
  if estimator in ('raw_sum', 'rise'):
    raw = rebase(stats, xp.zeros_like(stats.reference)).kept
    return ImportanceMap(raw if estimator == 'raw_sum' else raw / (n * p), none, none)
  some1, some0 = xp.maximum(c1, 1), xp.maximum(c0, 1)
  mean1, mean0 = stats.kept / some1, (stats.total - stats.kept) / some0
  if estimator == 'self_normalised':
    return ImportanceMap(xp.where(c1 > 0, mean1 + stats.reference, xp.nan), none, none)
  if estimator == 'ridge':
    return _ridge(stats, ridge)
  value = mean1 - mean0
  if estimator == 'antithetic':
    pairs = xp.maximum(n / 2, 2)
    error = xp.sqrt(xp.maximum(stats.pairs / pairs - value**2, 0) / (pairs - 1))
    return ImportanceMap(value, error, xp.full(c1.shape, 1.0, dtype=c1.dtype) * (pairs - 1))
  enough = (c1 >= 2) & (c0 >= 2)
  squares0 = stats.squares - stats.kept_squares
  v1 = xp.maximum(stats.kept_squares - c1 * mean1**2, 0) / xp.maximum(c1 - 1, 1) / some1
  v0 = xp.maximum(squares0 - c0 * mean0**2, 0) / xp.maximum(c0 - 1, 1) / some0
  tiny = np.finfo(c1.dtype).tiny
  freedom = (v1 + v0) ** 2 / xp.maximum(v1**2 / xp.maximum(c1 - 1, 1) + v0**2 / xp.maximum(c0 - 1, 1), tiny)
  return ImportanceMap(
    xp.where((c1 >= 1) & (c0 >= 1), value, xp.nan),
    xp.where(enough, xp.sqrt(v1 + v0), xp.nan),
    xp.where(enough, xp.maximum(freedom, 1), xp.nan),
  )


def _ridge(stats: Statistics, ridge: float) -> ImportanceMap:
  """Ridge regression of the return on all cells, centred; errors as if its residuals were alike."""
  if stats.gram is None:
    raise ValueError('The ridge estimator needs statistics with gram=True.')
  xp = stats.count.__array_namespace__()
  n, cells = stats.n, stats.count.shape[0]
  xx = stats.gram - stats.count[:, None] * stats.count[None] / n
  xy = stats.kept - stats.count * stats.total / n
  inverse = xp.linalg.inv(xx + ridge * n * xp.eye(cells, dtype=xx.dtype))
  value = inverse @ xy
  residual = stats.squares - stats.total**2 / n - 2 * value @ xy + value @ xx @ value
  freedom = xp.maximum(n - 1 - xp.trace(inverse @ xx), 1)
  error = xp.sqrt(xp.maximum(residual, 0) / freedom * xp.diagonal(inverse @ xx @ inverse))
  return ImportanceMap(value, error, xp.full((cells,), 1.0, dtype=xx.dtype) * freedom)


def importance_map(
  masks: np.ndarray, returns: np.ndarray, estimator: str = 'contrast', p: float = 0.5, ridge: float = 0.1
) -> ImportanceMap:
  """The map of masks [N, ...cells] and their returns [N], in float64; see `finalise`.

  Source: the paper's estimate of importance; `contrast` and `ridge` are this library's own.

  Raises:
    ValueError: for fewer than two masks, lengths that differ, or a return that is not finite (naming the mask).
  """
  masks, returns = np.asarray(masks), check_returns(returns)
  if len(masks) != len(returns):
    raise ValueError(f'masks have length {len(masks)}, returns {len(returns)}: every mask needs its return.')
  cells = int(np.prod(masks.shape[1:]))
  result = finalise(
    importance_update(importance_init(cells, estimator == 'ridge'), masks, returns), estimator, p, ridge
  )
  return ImportanceMap(*(np.reshape(x, masks.shape[1:]) for x in result))


def check_returns(returns: np.ndarray) -> np.ndarray:
  """[N] float64.

  Raises:
    ValueError: for fewer than two, or naming the first mask whose return is not finite.
  """
  returns = np.asarray(returns, np.float64)
  if returns.ndim != 1 or len(returns) < 2:
    raise ValueError(f'returns have shape {returns.shape}: N < 2 masks cannot be compared.')
  bad = np.flatnonzero(~np.isfinite(returns))
  if bad.size:
    raise ValueError(f'The return of mask {bad[0]} is {returns[bad[0]]}: every return must be finite.')
  return returns


def confidence_interval(importance: ImportanceMap, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
  """(lower, upper) bounds per cell by Student's t. Source: this library's own."""
  half = scipy_stats.t.ppf(0.5 + level / 2, np.asarray(importance.freedom)) * np.asarray(importance.error)
  return np.asarray(importance.value) - half, np.asarray(importance.value) + half


def rank_cells(value: Array) -> Array:
  """Flat indices of the cells, most important first; NaN last, ties in order of their index."""
  flat = value.reshape(-1)
  xp = flat.__array_namespace__()
  return xp.argsort(xp.where(xp.isnan(flat), xp.inf, -flat), stable=True)
