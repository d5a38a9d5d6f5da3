"""Opinion score processing: planted subjects, missing ratings, independent formulas, and errors that name things."""

import numpy as np
import pytest
from scipy import stats

from jaxpapers.vr_quality import effects, mos


def planted(seed=0, subjects=14, stimuli=70, missing=0.1):
  rng = np.random.default_rng(seed)
  quality = rng.uniform(1.5, 4.5, stimuli)
  bias = rng.normal(0, 0.4, subjects)
  bias -= bias.mean()
  spread = rng.uniform(0.2, 0.8, subjects)
  ratings = quality + bias[:, None] + spread[:, None] * rng.normal(size=(subjects, stimuli))
  ratings[rng.random(ratings.shape) < missing] = np.nan
  return ratings, quality, bias, spread


def test_statistics_count_only_given_ratings():
  ratings, *_ = planted()
  found = mos.mos(ratings)
  for j in range(5):
    given = ratings[~np.isnan(ratings[:, j]), j]
    want = (given.mean(), given.std(ddof=1), 1.96 * stats.sem(given), len(given))
    np.testing.assert_allclose([x[j] for x in found], want, rtol=1e-12)
  scores = mos.z_scores(ratings)
  np.testing.assert_allclose(np.nanmean(scores, axis=1), 0, atol=1e-12)
  np.testing.assert_allclose(np.nanstd(scores, axis=1, ddof=1), 1, atol=1e-12)


def test_screening_rejects_the_random_subject_and_keeps_the_strict_one():
  rng = np.random.default_rng(1)
  quality = rng.uniform(1.5, 4.5, 120)
  ratings = np.clip(np.round(quality + rng.normal(0, 0.4, (20, 120))), 1, 5)
  ratings[3] = rng.choice([1, 5], 120)
  ratings[7] = np.clip(np.round(quality - 1.5), 1, 5)
  ratings[:, 5] = 3.0
  found = mos.screen(ratings)
  np.testing.assert_array_equal(np.flatnonzero(found.rejected), [3])
  assert found.below[7] > 6 and np.isnan(found.kurtosis[5])
  kept = mos.mos(ratings, ~found.rejected)
  assert kept.count[0] == 19


def test_subject_model_finds_bias_and_inconsistency():
  ratings, quality, bias, spread = planted(stimuli=400)
  found = mos.subject_model(ratings)
  assert abs(found.bias.sum()) < 1e-12
  np.testing.assert_allclose(found.bias, bias, atol=0.12)
  np.testing.assert_allclose(found.inconsistency, spread, atol=0.1)
  assert np.sqrt(np.mean((found.quality - quality) ** 2)) < np.sqrt(np.mean((mos.mos(ratings).mean - quality) ** 2))
  with pytest.raises(ValueError, match='every subject'):
    mos.subject_model(np.where(np.arange(14)[:, None] == 2, np.nan, ratings))


def test_reliability_against_direct_formulas():
  ratings, *_ = planted(missing=0.15)
  found = mos.leave_one_out(ratings)
  for i in (0, 9):
    rest = np.nanmean(np.delete(ratings, i, axis=0), axis=0)
    given = ~np.isnan(ratings[i])
    assert abs(found[i] - stats.pearsonr(ratings[i, given], rest[given]).statistic) < 1e-12
  r, corrected = mos.split_half(ratings, repeats=4)
  assert 0.8 < r < corrected < 1.0
  full, *_ = planted(missing=0.0)
  # Two-way ANOVA by its cell sums.
  x = full.T
  n, k = x.shape
  rows, columns = x.mean(1, keepdims=True), x.mean(0, keepdims=True)
  error = np.square(x - rows - columns + x.mean()).sum() / ((n - 1) * (k - 1))
  between = k * np.square(rows - x.mean()).sum() / (n - 1)
  judges = n * np.square(columns - x.mean()).sum() / (k - 1)
  assert abs(mos.icc(x) - (between - error) / (between + (k - 1) * error)) < 1e-12
  agree = (between - error) / (between + (k - 1) * error + k / n * (judges - error))
  assert abs(mos.icc(x, agreement=True) - agree) < 1e-12
  mean = np.array([2.0, 3.0, 4.0])
  assert abs(mos.sos(mean, np.sqrt(0.2 * (-(mean**2) + 6 * mean - 5))) - 0.2) < 1e-12


def test_bad_ratings_are_named():
  rows = [('ann', 'x', 3), ('ann', 'y', 4), ('bob', 'x', 2), ('bob', 'y', 5)]
  ratings, subjects, stimuli = mos.ratings_matrix(rows)
  assert subjects == ['ann', 'bob'] and stimuli == ['x', 'y'] and ratings[1, 1] == 5
  with pytest.raises(ValueError, match="row 5: subject 'ann', stimulus 'y' was rated before, in row 2"):
    mos.ratings_matrix([*rows, ('ann', 'y', 1)])
  with pytest.raises(ValueError, match="row 5.*'good' is no number"):
    mos.ratings_matrix([*rows, ('cid', 'y', 'good')])
  with pytest.raises(ValueError, match="outside 1..5; the first is 6, by subject 'cid' for stimulus 'x'"):
    mos.ratings_matrix([*rows, ('cid', 'x', 6)])
  with pytest.raises(ValueError, match="subject 'cid': no rating"):
    mos.ratings_matrix([*rows, ('cid', 'x', float('nan'))])
  with pytest.raises(ValueError, match="stimulus 'z': fewer than two"):
    mos.ratings_matrix([*rows, ('ann', 'z', 3)])


def test_effects_equal_scipy_and_planted_contrasts():
  rng = np.random.default_rng(2)
  base = rng.uniform(1.5, 4.5, (40, 1, 1))
  design = base + np.array([[0.0, 0.5], [0.3, -0.1]]) + rng.normal(0, 0.2, (40, 2, 2))
  found = effects.within_anova(design)
  interaction = ((design[:, 0, 1] - design[:, 0, 0]) - (design[:, 1, 1] - design[:, 1, 0])) / 2
  test = stats.ttest_1samp(interaction, 0)
  assert abs(found['interaction'].f - test.statistic**2) < 1e-9
  assert abs(found['interaction'].p / test.pvalue - 1) < 1e-9
  assert abs(found['interaction'].mean - 0.45) < 0.1 and found['interaction'].partial_eta2 > 0.5
  flat = design.reshape(40, 4)
  ranks = effects.friedman(flat)
  assert 0 < ranks.kendall_w <= 1 and abs(ranks.mean_ranks.sum() - 10) < 1e-12
  paired = effects.paired_test(flat[:, 0], flat[:, 1])
  assert abs(paired.effect_size * np.sqrt(40) - paired.t) < 1e-9
  assert effects.paired_test(flat[:, 0], flat[:, 0]).wilcoxon_p == 1.0
  flat[3, 1] = np.nan
  with pytest.raises(ValueError, match='number 3'):
    effects.friedman(flat)
