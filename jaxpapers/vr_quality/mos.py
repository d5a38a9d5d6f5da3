"""From ratings to mean opinion scores: screening, bias models, reliability.

Ratings are float arrays [subjects, stimuli] with NaN where a subject did not rate a stimulus; everything is NumPy in
float64. `ratings_matrix` makes such an array from rows of a table and names what is wrong with them.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

SCALE = (1.0, 5.0)  # the absolute category scale, bad to excellent


class Mos(NamedTuple):
  """Statistics per stimulus, float64 arrays [stimuli].

  Attributes:
    mean: mean opinion score.
    std: sample standard deviation.
    ci95: half width of the 95 % interval, 1.96 std / sqrt(count).
    count: int64, ratings per stimulus.
  """

  mean: np.ndarray
  std: np.ndarray
  ci95: np.ndarray
  count: np.ndarray


class Screening(NamedTuple):
  """ITU-R BT.500 screening of subjects.

  Attributes:
    above: [subjects] int64, P: stimuli that a subject rated at or above mean + threshold.
    below: [subjects] int64, Q: stimuli rated at or below mean - threshold.
    rated: [subjects] int64, stimuli that a subject rated.
    kurtosis: [stimuli] float64, m4 / m2²; NaN where all ratings agree.
    rejected: [subjects] bool.
  """

  above: np.ndarray
  below: np.ndarray
  rated: np.ndarray
  kurtosis: np.ndarray
  rejected: np.ndarray


class SubjectModel(NamedTuple):
  """u_ij = quality_j + bias_i + inconsistency_i e (ITU-T P.910, P.913).

  Attributes:
    quality: [stimuli] float64.
    bias: [subjects] float64, sums to zero.
    inconsistency: [subjects] float64, standard deviation of a subject's residuals.
    iterations: until the largest change of quality fell below the tolerance.
  """

  quality: np.ndarray
  bias: np.ndarray
  inconsistency: np.ndarray
  iterations: int


def ratings_matrix(
  rows: Iterable[tuple[str, str, float]], scale: tuple[float, float] = SCALE, source: str = 'ratings'
) -> tuple[np.ndarray, list[str], list[str]]:
  """Rows (subject, stimulus, score) as (ratings [subjects, stimuli], subjects, stimuli), in order of appearance.

  Args:
    rows: of a table; a NaN score is a missing rating.
    scale: lowest and highest allowed score.
    source: what error messages call the table.

  Raises:
    ValueError: naming the row and what is wrong: a pair given twice, a score that is no number or outside the scale; or
      what `check_ratings` finds.
  """
  subjects, stimuli, cells = {}, {}, {}
  for number, (subject, stimulus, score) in enumerate(rows, start=1):
    i, j = subjects.setdefault(subject, len(subjects)), stimuli.setdefault(stimulus, len(stimuli))
    where = f'{source}, row {number}: subject {subject!r}, stimulus {stimulus!r}'
    if (i, j) in cells:
      raise ValueError(f'{where} was rated before, in row {cells[i, j][0]}; one rating per pair is needed.')
    try:
      value = float(score)
    except (TypeError, ValueError) as error:
      raise ValueError(f'{where}: the score {score!r} is no number.') from error
    cells[i, j] = number, value
  ratings = np.full((len(subjects), len(stimuli)), np.nan)
  for (i, j), (_, value) in cells.items():
    ratings[i, j] = value
  return check_ratings(ratings, list(subjects), list(stimuli), scale), list(subjects), list(stimuli)


def check_ratings(
  ratings: np.ndarray,
  subjects: Sequence[str] | None = None,
  stimuli: Sequence[str] | None = None,
  scale: tuple[float, float] = SCALE,
) -> np.ndarray:
  """Ratings [subjects, stimuli] as float64.

  Raises:
    ValueError: naming subjects or stimuli: a rating outside the scale, a subject without any rating, a stimulus with
      fewer than two.
  """
  ratings = np.asarray(ratings, np.float64)
  if ratings.ndim != 2 or not ratings.size:
    raise ValueError(f'Ratings must be a [subjects, stimuli] array with entries, not of shape {ratings.shape}.')

  def name(names, index, what):
    return f'{what} {index}' if names is None else f'{what} {names[index]!r}'

  low, high = scale
  outside = np.argwhere((ratings < low) | (ratings > high))
  if len(outside):
    i, j = outside[0]
    raise ValueError(
      f'{len(outside)} ratings lie outside {low:g}..{high:g}; the first is {ratings[i, j]:g}, by '
      f'{name(subjects, i, "subject")} for {name(stimuli, j, "stimulus")}.'
    )
  given = ~np.isnan(ratings)
  silent = np.flatnonzero(~given.any(axis=1))
  if len(silent):
    raise ValueError(f'{", ".join(name(subjects, i, "subject") for i in silent)}: no rating at all; leave them out.')
  few = np.flatnonzero(given.sum(axis=0) < 2)
  if len(few):
    listed = ', '.join(name(stimuli, j, 'stimulus') for j in few[:8]) + (', ...' if len(few) > 8 else '')
    raise ValueError(f'{listed}: fewer than two ratings, so no deviation and no interval can be computed.')
  return ratings


def mos(ratings: np.ndarray, keep: np.ndarray | None = None) -> Mos:
  """Mean, sample deviation, 95 % interval and count per stimulus.

  Args:
    ratings: [subjects, stimuli], NaN = missing.
    keep: [subjects] bool, e.g. ~screen(ratings).rejected; None keeps all.

  Returns:
    The statistics; std and ci95 are NaN where a stimulus keeps fewer than two ratings.
  """
  ratings = np.asarray(ratings, np.float64)
  if keep is not None:
    ratings = ratings[np.asarray(keep, bool)]
  count = (~np.isnan(ratings)).sum(axis=0)
  with np.errstate(invalid='ignore', divide='ignore'):
    mean = np.nansum(ratings, axis=0) / count
    std = np.sqrt(np.nansum(np.square(ratings - mean), axis=0) / np.where(count > 1, count - 1, np.nan))
    return Mos(mean, std, 1.96 * std / np.sqrt(count), count)


def screen(
  ratings: np.ndarray, *, share: float = 0.05, balance: float = 0.3, window: tuple[float, float] = (2.0, 4.0)
) -> Screening:
  """ITU-R BT.500 screening, one pass. Source: Recommendation ITU-R BT.500.

  The threshold of a stimulus is 2 deviations where its kurtosis lies in `window` (near normal), sqrt(20) elsewhere. A
  subject is rejected if (P + Q) / rated > share and |P - Q| / (P + Q) < balance.

  Args:
    ratings: [subjects, stimuli], NaN = missing.
    share: of unusual ratings that is tolerated.
    balance: below it a subject errs on both sides, i.e. is unreliable rather than strict or lenient.
    window: of the kurtosis.
  """
  ratings = np.asarray(ratings, np.float64)
  given, each = ~np.isnan(ratings), mos(ratings)
  centred = ratings - each.mean
  with np.errstate(invalid='ignore', divide='ignore'):
    second = np.nansum(centred**2, axis=0) / each.count
    kurtosis = np.where(second > 0.0, np.nansum(centred**4, axis=0) / each.count / second**2, np.nan)
    factor = np.where((kurtosis >= window[0]) & (kurtosis <= window[1]), 2.0, np.sqrt(20.0))
    usable = given & (each.std > 0.0)
    above = (usable & (ratings >= each.mean + factor * each.std)).sum(axis=1)
    below = (usable & (ratings <= each.mean - factor * each.std)).sum(axis=1)
    rated, unusual = given.sum(axis=1), above + below
    rejected = (unusual / rated > share) & (np.abs(above - below) / unusual < balance)
  return Screening(above, below, rated, kurtosis, rejected & (unusual > 0))


def subject_model(ratings: np.ndarray, *, tolerance: float = 1e-10, limit: int = 10_000) -> SubjectModel:
  """Maximum-likelihood quality, bias and inconsistency by alternation (ITU-T P.910, P.913).

  Args:
    ratings: [subjects, stimuli], NaN = missing.
    tolerance: stop when no quality changed by more.
    limit: of iterations.

  Raises:
    ValueError: if a subject has no rating or a stimulus none, or the alternation does not settle.
  """
  ratings = np.asarray(ratings, np.float64)
  given = ~np.isnan(ratings)
  if not given.any(axis=1).all() or not given.any(axis=0).all():
    raise ValueError('The subject model needs a rating by every subject and for every stimulus.')
  quality = np.nanmean(ratings, axis=0)
  for iteration in range(1, limit + 1):
    bias = np.nanmean(ratings - quality, axis=1)
    bias -= bias.mean()
    residual = ratings - quality - bias[:, None]
    inconsistency = np.sqrt(np.nanmean(np.square(residual), axis=1))
    # A subject who repeats the others exactly would get infinite weight.
    weight = given / np.square(np.maximum(inconsistency, 1e-6))[:, None]
    new = np.nansum(weight * (ratings - bias[:, None]), axis=0) / weight.sum(axis=0)
    change, quality = float(np.abs(new - quality).max()), new
    if change < tolerance:
      return SubjectModel(quality, bias, inconsistency, iteration)
  raise ValueError(f'The subject model did not settle in {limit} iterations; the last change was {change:.3g}.')


def z_scores(ratings: np.ndarray) -> np.ndarray:
  """Ratings [subjects, stimuli] minus each subject's mean over its sample deviation; a constant subject gets 0."""
  ratings = np.asarray(ratings, np.float64)
  own = mos(ratings.T)
  std = np.where(own.std > 0.0, own.std, 1.0)
  return (ratings - own.mean[:, None]) / std[:, None]


def z_mos(ratings: np.ndarray) -> np.ndarray:
  """[stimuli]: mean of the z-scores. Source: van Dijk et al., SPIE 1995."""
  return np.nanmean(z_scores(ratings), axis=0)


def leave_one_out(ratings: np.ndarray) -> np.ndarray:
  """[subjects]: PLCC of a subject with the mean of the others over the stimuli it rated; NaN if undefined.

  Source: this library's own.
  """
  ratings = np.asarray(ratings, np.float64)
  given = ~np.isnan(ratings)
  total, count = np.nansum(ratings, axis=0), given.sum(axis=0)
  with np.errstate(invalid='ignore', divide='ignore'):
    others = (total - np.where(given, ratings, 0.0)) / (count - given)
    own = np.where(given & (count > 1), ratings, np.nan)
    rest = np.where(np.isnan(own), np.nan, others)
    x, y = own - _row_mean(own), rest - _row_mean(rest)
    return np.nansum(x * y, axis=1) / np.sqrt(np.nansum(x * x, axis=1) * np.nansum(y * y, axis=1))


def split_half(ratings: np.ndarray, *, seed: int = 0, repeats: int = 100) -> tuple[float, float]:
  """(mean SRCC of random halves of the subjects, its Spearman-Brown correction 2 r / (1 + r)).

  Source: this library's own.

  Raises:
    ValueError: for fewer than four subjects.
  """
  ratings = np.asarray(ratings, np.float64)
  if len(ratings) < 4:
    raise ValueError(f'Split halves need at least 4 subjects, not {len(ratings)}.')
  rng, found = np.random.default_rng(seed), []
  for _ in range(repeats):
    order = rng.permutation(len(ratings))
    first, second = (mos(ratings[half]).mean for half in np.array_split(order, 2))
    both = np.isfinite(first) & np.isfinite(second)
    found.append(stats.spearmanr(first[both], second[both]).statistic)
  r = float(np.nanmean(found))
  return r, 2.0 * r / (1.0 + r)


def icc(scores: np.ndarray, *, agreement: bool = False) -> float:
  """Intraclass correlation of single measurements, two-way model. Source: Shrout and Fleiss, 1979.

  Args:
    scores: [targets, raters], complete.
    agreement: False: consistency, ICC(3,1); True: absolute agreement, ICC(2,1), to which shifts between raters count.

  Raises:
    ValueError: for missing scores or fewer than two targets or raters.
  """
  scores = np.asarray(scores, np.float64)
  if scores.ndim != 2 or min(scores.shape) < 2 or np.isnan(scores).any():
    raise ValueError(f'The ICC needs complete [targets, raters] scores, two of each at least, not {scores.shape}.')
  n, k = scores.shape
  grand = scores.mean()
  rows = k * np.square(scores.mean(axis=1) - grand).sum() / (n - 1)
  columns = n * np.square(scores.mean(axis=0) - grand).sum() / (k - 1)
  error = (np.square(scores - grand).sum() - rows * (n - 1) - columns * (k - 1)) / ((n - 1) * (k - 1))
  shift = k / n * (columns - error) if agreement else 0.0
  return float((rows - error) / (rows + (k - 1) * error + shift))


def sos(mean: np.ndarray, std: np.ndarray) -> float:
  """a of std² = a (-mean² + 6 mean - 5), least squares over stimuli: 0 all agree, 1 as spread as the scale allows.

  Source: Hossfeld et al., QoMEX 2011.
  """
  mean, variance = np.asarray(mean, np.float64), np.square(np.asarray(std, np.float64))
  parabola = -np.square(mean) + 6.0 * mean - 5.0
  usable = np.isfinite(variance) & np.isfinite(parabola)
  return float((parabola[usable] * variance[usable]).sum() / np.square(parabola[usable]).sum())


def _row_mean(x: np.ndarray) -> np.ndarray:
  return (np.nansum(x, axis=1) / (~np.isnan(x)).sum(axis=1))[:, None]
