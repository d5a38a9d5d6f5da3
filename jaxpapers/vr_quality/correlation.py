"""Agreement of predicted quality with mean opinion scores: PLCC after a logistic mapping, SRCC, KRCC, RMSE.

A logistic mapping may fall as well as rise, so it hides the sign of a predictor: `Agreement` carries it, and a rising
mapping can be demanded. `ranks`, `pearson`, `srcc` and `krcc` are JAX functions for use inside compiled programs.
"""

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, stats

MIN_POINTS = 5
_EXPONENT = 60.0  # exp(60) is far past what a logistic curve resolves and far below overflow


class Fit(NamedTuple):
  """A mapping of predictions to opinion scores.

  Attributes:
    kind: 'logistic', 'affine' (no logistic curve was better) or 'none' (see `note`).
    parameters: of the curve in the original units of the predictions; () for 'none'.
    mapped: [n] float64, the predictions after the mapping.
    sse: sum of squared errors of `mapped`.
    note: why it is no logistic curve (not asked for, fewer than MIN_POINTS points, constant); '' if it is one.
  """

  kind: str
  parameters: tuple[float, ...]
  mapped: np.ndarray
  sse: float
  note: str


class Agreement(NamedTuple):
  """How well predictions agree with opinion scores.

  Attributes:
    plcc: Pearson correlation of the mapped predictions with the scores; NaN where one of them is constant.
    srcc: Spearman correlation of the raw predictions.
    krcc: Kendall's tau-b of the raw predictions.
    rmse: root mean square error of the mapped predictions, in units of the scores.
    sign: +1 if raw predictions rise with the scores (by SRCC), -1 if they fall, 0 if undecided.
    n: number of pairs.
    fit: the mapping.
  """

  plcc: float
  srcc: float
  krcc: float
  rmse: float
  sign: int
  n: int
  fit: Fit


def logistic4(x: np.ndarray, b1: float, b2: float, b3: float, b4: float) -> np.ndarray:
  """b2 + (b1 - b2) / (1 + exp(-(x - b3) / |b4|)), float64. Source: the authors' evaluation."""
  with np.errstate(divide='ignore', invalid='ignore', over='ignore'):
    exponent = np.nan_to_num((np.asarray(x, np.float64) - b3) / abs(b4), nan=0.0)
  return b2 + (b1 - b2) / (1.0 + np.exp(-np.clip(exponent, -_EXPONENT, _EXPONENT)))


def logistic5(x: np.ndarray, b1: float, b2: float, b3: float, b4: float, b5: float) -> np.ndarray:
  """b1 (1/2 - 1 / (1 + exp(b2 (x - b3)))) + b4 x + b5, float64. Source: Sheikh et al., TIP 2006."""
  x = np.asarray(x, np.float64)
  return b1 * (0.5 - 1.0 / (1.0 + np.exp(np.clip(b2 * (x - b3), -_EXPONENT, _EXPONENT)))) + b4 * x + b5


def fit_logistic(predictions: np.ndarray, mos: np.ndarray, parameters: int = 4, *, monotone: bool = False) -> Fit:
  """Least-squares logistic mapping, accepted only if it is no worse than the best affine one.

  Source: the authors' evaluation, made safe.

  Args:
    predictions: [n], any scale.
    mos: [n].
    parameters: 4 or 5; 0 maps nothing.
    monotone: demand a mapping that does not fall.

  Returns:
    The fit. Predictions are standardised before fitting; `parameters` are in their original units.

  Raises:
    ValueError: for shapes that differ, non-finite numbers or another number of parameters.
  """
  x, y = _pairs(predictions, mos)
  if parameters not in (0, 4, 5):
    raise ValueError(f'A logistic mapping has 4 or 5 parameters (0: none), not {parameters}.')
  if not parameters:
    return _none(x, y, 'no mapping was asked for')
  if len(x) < MIN_POINTS:
    return _none(x, y, f'{len(x)} points are fewer than the {MIN_POINTS} that a fit needs')
  centre, scale = float(x.mean()), float(x.std())
  if not scale > 1e-12 * max(1.0, abs(centre)):
    return _none(x, y, 'the predictions are constant')
  z = (x - centre) / scale
  slope, intercept = (float(v) for v in np.polyfit(z, y, 1))
  if monotone and slope < 0.0:
    slope, intercept = 0.0, float(y.mean())
  affine = slope * z + intercept
  best = float(np.square(affine - y).sum())
  candidates = _fit4(z, y, monotone) if parameters == 4 else _fit5(z, y, slope, intercept, monotone)
  curve = logistic4 if parameters == 4 else logistic5
  errors = [float(np.square(curve(z, *beta) - y).sum()) for beta in candidates]
  if errors and min(errors) <= best:
    beta = candidates[int(np.argmin(errors))]
    return Fit('logistic', _unscaled(beta, centre, scale), curve(z, *beta), min(errors), '')
  parameters = (slope / scale, intercept - slope * centre / scale)
  return Fit('affine', parameters, affine, best, 'no logistic curve beats the affine map')


def agreement(predictions: np.ndarray, mos: np.ndarray, parameters: int = 4, *, monotone: bool = False) -> Agreement:
  """PLCC and RMSE after `fit_logistic`, SRCC and KRCC on the raw predictions, and the sign.

  Source: the authors' evaluation, and the sign that it hides.

  Args:
    predictions: [n].
    mos: [n].
    parameters: of the logistic mapping, 4 or 5; 0 compares the raw predictions.
    monotone: demand a mapping that does not fall, so that a predictor with the wrong sign gets no credit.

  Returns:
    NaN where a correlation is undefined (constant or fewer than two values), with a warning.

  Raises:
    ValueError: for shapes that differ or non-finite numbers.
  """
  x, y = _pairs(predictions, mos)
  fit = fit_logistic(x, y, parameters, monotone=monotone)
  if len(x) < 2 or np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
    what = 'there are fewer than two pairs' if len(x) < 2 else 'predictions or scores are constant'
    warnings.warn(f'Correlations are undefined: {what}.', stacklevel=2)
    rank, tau = float('nan'), float('nan')
  else:
    rank, tau = float(stats.spearmanr(x, y).statistic), float(stats.kendalltau(x, y).statistic)
  linear = _pearson64(fit.mapped, y)
  rmse = float(np.sqrt(fit.sse / len(x))) if len(x) else float('nan')
  sign = 0 if not np.isfinite(rank) else int(np.sign(rank))
  return Agreement(linear, rank, tau, rmse, sign, len(x), fit)


def ranks(x: jax.Array) -> jax.Array:
  """Ranks 1..n of [n] values, ties averaged; float, under jit."""
  order = jnp.argsort(x)
  values = x[order]
  first = jnp.searchsorted(values, values, side='left')
  last = jnp.searchsorted(values, values, side='right')
  average = (first + last + 1).astype(jnp.result_type(x, jnp.float32)) / 2.0
  return jnp.zeros_like(average).at[order].set(average)


def pearson(x: jax.Array, y: jax.Array) -> jax.Array:
  """Pearson correlation of [n] and [n], under jit; NaN where one is constant."""
  x, y = x - jnp.mean(x), y - jnp.mean(y)
  return jnp.sum(x * y) / jnp.sqrt(jnp.sum(x * x) * jnp.sum(y * y))


def srcc(x: jax.Array, y: jax.Array) -> jax.Array:
  """Spearman correlation with averaged ties of [n] and [n], under jit; NaN where one is constant."""
  return pearson(ranks(x), ranks(y))


def krcc(x: jax.Array, y: jax.Array) -> jax.Array:
  """Kendall's tau-b of [n] and [n], under jit, O(n²) memory; NaN where one is constant."""
  dtype = jnp.result_type(x, jnp.float32)
  dx, dy = (jnp.sign(v[:, None] - v[None, :]).astype(dtype) for v in (x, y))
  return jnp.sum(dx * dy) / jnp.sqrt(jnp.sum(dx * dx) * jnp.sum(dy * dy))


def _pairs(predictions: np.ndarray, mos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  x, y = np.asarray(predictions, np.float64), np.asarray(mos, np.float64)
  if x.ndim != 1 or x.shape != y.shape:
    raise ValueError(f'Predictions and scores must be two vectors of one length, not {x.shape} and {y.shape}.')
  for name, values in (('prediction', x), ('score', y)):
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
      raise ValueError(
        f'{len(bad)} of {len(x)} {name}s are not finite; the first is number {bad[0]}: {values[bad[0]]}.'
      )
  return x, y


def _pearson64(x: np.ndarray, y: np.ndarray) -> float:
  if len(x) < 2 or np.ptp(x) <= 1e-12 * max(1.0, float(np.abs(x).max())) or np.ptp(y) == 0.0:
    return float('nan')
  return float(stats.pearsonr(x, y).statistic)


def _none(x: np.ndarray, y: np.ndarray, note: str) -> Fit:
  return Fit('none', (), x, float(np.square(x - y).sum()), note)


def _fit4(z: np.ndarray, y: np.ndarray, monotone: bool) -> list[np.ndarray]:
  """Local optima from the published start and, for a free sign, its mirror image."""
  top, bottom = float(y.max()), float(y.min())
  starts = [(top, bottom, 0.0, 0.5)] if monotone else [(top, bottom, 0.0, 0.5), (bottom, top, 0.0, 0.5)]
  if not monotone:
    return _least_squares(lambda b: logistic4(z, *b) - y, starts)

  def rising(b):
    return logistic4(z, b[1] + b[0] ** 2, *b[1:]) - y

  found = _least_squares(rising, [(np.sqrt(max(top - bottom, 1e-6)), bottom, 0.0, 0.5)])
  return [np.array([b[1] + b[0] ** 2, *b[1:]]) for b in found]


def _fit5(z: np.ndarray, y: np.ndarray, slope: float, intercept: float, monotone: bool) -> list[np.ndarray]:
  """Local optima from the affine map plus a step; `monotone`: both parts rise (b1 b2 >= 0 and b4 >= 0)."""
  span = float(np.ptp(y))
  if not monotone:
    starts = [(span, 1.0, 0.0, 0.0, float(y.mean())), (-span, 1.0, 0.0, 0.0, float(y.mean()))]
    return _least_squares(lambda b: logistic5(z, *b) - y, [*starts, (0.1 * span, 1.0, 0.0, slope, intercept)])

  def rising(b):
    return np.array([b[0] ** 2, b[1] ** 2, b[2], b[3] ** 2, b[4]])

  root, tilt = np.sqrt(max(span, 1e-6)), np.sqrt(max(slope, 1e-6))
  starts = [(root, 1.0, 0.0, 1e-3, float(y.mean())), (0.3 * root, 1.0, 0.0, tilt, intercept)]
  return [rising(b) for b in _least_squares(lambda b: logistic5(z, *rising(b)) - y, starts)]


def _least_squares(residuals, starts: list[tuple[float, ...]]) -> list[np.ndarray]:
  found = []
  for start in starts:
    if len(residuals(np.asarray(start))) >= len(start):
      solution = optimize.least_squares(residuals, start, method='lm', max_nfev=1500)
      if np.all(np.isfinite(solution.x)):
        found.append(solution.x)
  return found


def _unscaled(beta: np.ndarray, centre: float, scale: float) -> tuple[float, ...]:
  """Parameters for x from those for z = (x - centre) / scale."""
  if len(beta) == 4:
    return tuple(float(v) for v in (beta[0], beta[1], centre + scale * beta[2], scale * beta[3]))
  b1, b2, b3, b4, b5 = beta
  return tuple(float(v) for v in (b1, b2 / scale, centre + scale * b3, b4 / scale, b5 - b4 * centre / scale))
