"""Effects of viewing conditions on opinion scores: paired tests, within-video ANOVA, rank tests.

Scores are [videos, conditions]; the two-way design is [videos, starts, times]. `contrasts` and `anova_f` are JAX
functions, so that bootstrap replicates of the design run as one program.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats


class PairedTest(NamedTuple):
  """Two conditions over the same videos, difference = first - second.

  Attributes:
    mean_difference: mean of the differences.
    std_difference: sample deviation of the differences.
    t: paired t statistic, df n - 1.
    p: its two-sided p value.
    wilcoxon: signed-rank statistic W (zeros dropped).
    wilcoxon_p: its two-sided p value.
    effect_size: Cohen's d_z = mean / deviation of the differences.
    positive: share of differences above zero.
    zero: share of differences equal to zero.
  """

  mean_difference: float
  std_difference: float
  t: float
  p: float
  wilcoxon: float
  wilcoxon_p: float
  effect_size: float
  positive: float
  zero: float


class Effect(NamedTuple):
  """One row of the ANOVA.

  Attributes:
    mean: of the contrast, in units of the scores.
    f: F statistic.
    df: degrees of freedom (1, n - 1).
    p: its p value.
    partial_eta2: F / (F + n - 1).
  """

  mean: float
  f: float
  df: tuple[int, int]
  p: float
  partial_eta2: float


class RankTest(NamedTuple):
  """Friedman's test and Kendall's W.

  Attributes:
    chi2: Friedman statistic, ties corrected.
    p: its p value.
    kendall_w: concordance chi2 / (n (k - 1)) in 0..1.
    mean_ranks: [conditions] mean rank of each condition.
  """

  chi2: float
  p: float
  kendall_w: float
  mean_ranks: np.ndarray


def paired_test(first: np.ndarray, second: np.ndarray) -> PairedTest:
  """Paired t and Wilcoxon signed-rank tests of [videos] and [videos].

  Source: this library's analysis of the paper's design.

  Raises:
    ValueError: for shapes that differ, fewer than two videos or missing scores.
  """
  first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
  if first.ndim != 1 or first.shape != second.shape or len(first) < 2:
    raise ValueError(f'A paired test needs two vectors of one length >= 2, not {first.shape} and {second.shape}.')
  _complete(np.stack([first, second], axis=1))
  difference = first - second
  t = stats.ttest_rel(first, second)
  changed = np.any(difference != 0.0)
  signed = stats.wilcoxon(first, second) if changed else None
  mean, std = float(difference.mean()), float(difference.std(ddof=1))
  return PairedTest(
    mean,
    std,
    float(t.statistic),
    float(t.pvalue),
    float(signed.statistic) if changed else 0.0,
    float(signed.pvalue) if changed else 1.0,
    mean / std if std > 0.0 else float('nan'),
    float((difference > 0.0).mean()),
    float((difference == 0.0).mean()),
  )


def contrasts(scores: jax.Array) -> jax.Array:
  """The three contrasts of a 2 x 2 within design, [videos, 3]: start, time, interaction.

  Args:
    scores: [videos, 2 starts (A, B), 2 times (7 s, 15 s)].

  Returns:
    start: mean of A - mean of B; time: mean of 15 s - mean of 7 s; interaction: half of (what longer viewing adds from
    A) - (what it adds from B).
  """
  chex.assert_shape(scores, (None, 2, 2))
  a7, a15, b7, b15 = scores[:, 0, 0], scores[:, 0, 1], scores[:, 1, 0], scores[:, 1, 1]
  rows = [(a7 + a15 - b7 - b15), (a15 + b15 - a7 - b7), (a15 - a7 - b15 + b7)]
  return jnp.stack(rows, axis=-1) / 2


def anova_f(scores: jax.Array) -> jax.Array:
  """F statistics [3] (start, time, interaction), each the square of its contrast's t; under jit and vmap."""
  values = contrasts(scores)
  n = values.shape[0]
  return n * jnp.square(jnp.mean(values, axis=0)) / jnp.var(values, axis=0, ddof=1)


def within_anova(scores: np.ndarray) -> dict[str, Effect]:
  """Two-way within-video ANOVA of [videos, 2 starts, 2 times]: {'start', 'time', 'interaction'}.

  Every effect has one degree of freedom, so F = t² of its contrast with df (1, n - 1).

  Source: this library's analysis of the paper's design.

  Raises:
    ValueError: for another shape, fewer than two videos or missing scores.
  """
  scores = np.asarray(scores, np.float64)
  if scores.ndim != 3 or scores.shape[1:] != (2, 2) or len(scores) < 2:
    raise ValueError(f'The ANOVA needs [videos, 2 starts, 2 times] scores of two videos at least, not {scores.shape}.')
  _complete(scores)
  with jax.enable_x64(True):
    values = np.asarray(contrasts(jnp.asarray(scores)))
  n, effects = len(values), {}
  for name, column in zip(('start', 'time', 'interaction'), values.T, strict=True):
    f = float(np.square(stats.ttest_1samp(column, 0.0).statistic))
    effects[name] = Effect(float(column.mean()), f, (1, n - 1), float(stats.f.sf(f, 1, n - 1)), f / (f + n - 1))
  return effects


def friedman(scores: np.ndarray) -> RankTest:
  """Friedman's test over [videos, conditions] scores, three conditions at least, with Kendall's W.

  Source: this library's analysis of the paper's design.

  Raises:
    ValueError: for fewer conditions or missing scores.
  """
  scores = np.asarray(scores, np.float64)
  if scores.ndim != 2 or scores.shape[1] < 3:
    raise ValueError(f"Friedman's test needs [videos, conditions] with three conditions at least, not {scores.shape}.")
  _complete(scores)
  test = stats.friedmanchisquare(*scores.T)
  n, k = scores.shape
  return RankTest(
    float(test.statistic),
    float(test.pvalue),
    float(test.statistic / (n * (k - 1))),
    stats.rankdata(scores, axis=1).mean(axis=0),
  )


def correlations(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(PLCC, SRCC) matrices [conditions, conditions] of [videos, conditions] scores.

  Raises:
    ValueError: for missing scores.
  """
  scores = np.asarray(scores, np.float64)
  _complete(scores)
  return np.corrcoef(scores.T), np.corrcoef(stats.rankdata(scores, axis=0).T)


def _complete(scores: np.ndarray) -> None:
  missing = np.flatnonzero(np.isnan(scores.reshape(len(scores), -1)).any(axis=1))
  if len(missing):
    raise ValueError(f'{len(missing)} videos have no score in some condition; the first is number {missing[0]}.')
