"""Agreement with opinion scores: sign, monotone mapping, degenerate inputs, and the JAX rank correlations."""

import jax
import numpy as np
import pytest
from scipy import stats

from jaxpapers.vr_quality import correlation
from jaxpapers.vr_quality.correlation import agreement, fit_logistic

RNG = np.random.default_rng(0)
MOS = RNG.uniform(1, 5, 60)


def test_rank_correlations_in_jit_equal_scipy_with_ties():
  x = RNG.integers(0, 8, 50).astype(float)
  y = RNG.integers(0, 6, 50).astype(float) + x
  with jax.enable_x64(True):
    program = jax.jit(lambda x, y: (correlation.srcc(x, y), correlation.krcc(x, y), correlation.ranks(x)))
    srcc, krcc, ranks = jax.tree.map(np.asarray, program(x, y))
  assert abs(srcc - stats.spearmanr(x, y).statistic) < 1e-12
  assert abs(krcc - stats.kendalltau(x, y).statistic) < 1e-12
  np.testing.assert_array_equal(ranks, stats.rankdata(x))


@pytest.mark.parametrize('parameters', [4, 5])
@pytest.mark.parametrize('scale', [1.0, 1e4])
def test_mapping_recovers_a_curve_and_its_parameters_fit_raw_predictions(parameters, scale):
  x = RNG.normal(size=80) * scale + 3 * scale
  y = correlation.logistic4(x, 4.5, 1.5, 3.2 * scale, 0.4 * scale)
  fit = fit_logistic(x, y, parameters)
  assert fit.kind == 'logistic' and fit.sse < (1e-12 if parameters == 4 else 1e-6)
  curve = correlation.logistic4 if parameters == 4 else correlation.logistic5
  np.testing.assert_allclose(curve(x, *fit.parameters), fit.mapped, atol=1e-9)


@pytest.mark.parametrize('parameters', [4, 5])
def test_a_falling_predictor_is_told_by_its_sign_and_gets_nothing_from_a_monotone_mapping(parameters):
  predictions = -MOS + RNG.normal(0, 0.2, len(MOS))
  free = agreement(predictions, MOS, parameters)
  assert free.sign == -1 and free.srcc < -0.9 and free.plcc > 0.95
  rising = agreement(predictions, MOS, parameters, monotone=True)
  assert not rising.plcc > 0.3 and rising.rmse > 0.9 * MOS.std()
  good = agreement(-predictions, MOS, parameters, monotone=True)
  assert good.sign == 1 and good.plcc > 0.95
  order = np.argsort(-predictions)
  assert np.all(np.diff(good.fit.mapped[order]) >= -1e-9)


@pytest.mark.parametrize('parameters', [4, 5])
@pytest.mark.parametrize('monotone', [False, True])
def test_no_fit_is_worse_than_the_affine_map(parameters, monotone):
  for seed in range(2):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=12) ** 3, rng.uniform(1, 5, 12)
    slope, intercept = np.polyfit(x, y, 1)
    affine = np.square(slope * x + intercept - y).sum()
    if monotone and slope < 0:
      affine = np.square(y - y.mean()).sum()
    assert fit_logistic(x, y, parameters, monotone=monotone).sse <= affine * (1 + 1e-9)


def test_constant_and_tiny_inputs_survive_with_a_reason():
  with pytest.warns(UserWarning, match='undefined'):
    constant = agreement(np.ones(20), MOS[:20])
  assert np.isnan(constant.srcc) and np.isnan(constant.plcc) and constant.sign == 0
  assert 'constant' in constant.fit.note
  few = agreement([1.0, 2.0, 3.0], [1.0, 3.0, 2.0])
  assert few.fit.kind == 'none' and 'fewer' in few.fit.note and abs(few.srcc - 0.5) < 1e-12
  with pytest.warns(UserWarning, match='fewer than two'):
    assert np.isnan(agreement([1.0], [2.0]).plcc)
  with pytest.raises(ValueError, match='one length'):
    agreement(np.ones(3), np.ones(4))
  with pytest.raises(ValueError, match='number 1: nan'):
    agreement([1.0, np.nan, 2.0], [1.0, 2.0, 3.0])
  with pytest.raises(ValueError, match='4 or 5'):
    fit_logistic(MOS, MOS, 3)
