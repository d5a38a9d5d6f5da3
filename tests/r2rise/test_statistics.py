"""Masks, estimators and tests of maps, against independent float64 formulas and simulations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxpapers import r2rise
from jaxpapers.r2rise import importance, masks, statistics
from jaxpapers.r2rise.importance import ESTIMATORS

RNG = np.random.default_rng(0)
MASKS = RNG.random((60, 6)) < 0.5
EFFECTS = np.asarray([2.0, 0.0, 1.0, 0.0, 0.0, 0.5])
RETURNS = MASKS @ EFFECTS + RNG.normal(size=60) + 3.0


def test_masks_keep_the_share_p_in_constant_blocks_and_are_independent():
  key, p = jax.random.key(3), 0.3
  drawn = np.asarray(r2rise.sample_masks(key, 400, 2, 25, 10, p))
  cells = drawn[:, :, ::10]
  assert drawn.shape == (400, 2, 25) and cells.shape == (400, 2, 3)
  np.testing.assert_array_equal(drawn, np.repeat(cells, 10, axis=2)[:, :, :25])
  assert abs(cells.mean() - p) < 4 * np.sqrt(p * (1 - p) / cells.size)
  # Correlations of neighbouring masks, trajectories and cells are those of independent draws: sd 1 / sqrt(n).
  x = (cells - p) / np.sqrt(p * (1 - p))
  for a, b in ((x[1:], x[:-1]), (x[:, 0], x[:, 1]), (x[:, :, 1:], x[:, :, :-1])):
    assert abs((a * b).mean()) < 4 / np.sqrt(a.size)
  other = r2rise.sample_cells(jax.random.key(4), jnp.arange(400), 2, 3, p)
  assert 0.3 < (np.asarray(other) != cells).mean() < 0.55


def test_masks_depend_on_their_number_alone():
  key = jax.random.key(3)
  draw = jax.jit(lambda ids, pairs: r2rise.sample_cells(key, ids, 2, 10, 0.5, pairs), static_argnums=1)
  whole = np.asarray(draw(jnp.arange(400), False))
  np.testing.assert_array_equal(whole[7:10], draw(jnp.arange(7, 10), False))
  np.testing.assert_array_equal(whole[[5, 2, 9]], draw(jnp.asarray([5, 2, 9]), False))
  pairs = np.asarray(draw(jnp.arange(400), True))
  np.testing.assert_array_equal(pairs[::2], ~pairs[1::2])


@pytest.mark.parametrize('size', [1, 3, 60])
@pytest.mark.parametrize('estimator', ['contrast', 'ridge', 'raw_sum'])
def test_sums_of_chunks_and_of_merged_hosts_are_those_of_all_masks(size, estimator):
  want = r2rise.importance_map(MASKS, RETURNS, estimator)
  empty = r2rise.importance_init(6, gram=True)
  streamed = empty
  for start in range(0, 60, size):
    streamed = r2rise.importance_update(streamed, MASKS[start : start + size], RETURNS[start : start + size])
  hosts = empty
  for host in range(4):
    hosts = r2rise.importance_merge(hosts, r2rise.importance_update(empty, MASKS[host::4], RETURNS[host::4]))
  for sums in (streamed, hosts):
    for got, value in zip(r2rise.finalise(sums, estimator), want, strict=True):
      np.testing.assert_allclose(got, value, atol=1e-10)


def test_contrast_is_a_difference_of_means_with_the_error_of_welch():
  result = r2rise.importance_map(MASKS, RETURNS)
  low, high = r2rise.confidence_interval(result)
  for cell in range(6):
    kept, dropped = RETURNS[MASKS[:, cell]], RETURNS[~MASKS[:, cell]]
    test = stats.ttest_ind(kept, dropped, equal_var=False)
    interval = test.confidence_interval(0.95)
    np.testing.assert_allclose(result.value[cell], kept.mean() - dropped.mean(), rtol=1e-12)
    np.testing.assert_allclose((low[cell], high[cell]), interval, rtol=1e-9)
    np.testing.assert_allclose(statistics.cell_p_values(result)[cell], test.pvalue, rtol=1e-9)


def test_ridge_is_the_regression_of_returns_on_cells():
  x, y = MASKS - MASKS.mean(axis=0), RETURNS - RETURNS.mean()
  want = np.linalg.solve(x.T @ x + 0.1 * 60 * np.eye(6), x.T @ y)
  np.testing.assert_allclose(r2rise.importance_map(MASKS, RETURNS, 'ridge').value, want, rtol=1e-9)


def test_adding_100_to_all_returns_changes_no_contrast_and_the_raw_sum_s_ranking():
  a, b = (r2rise.importance_map(MASKS, RETURNS + c) for c in (0.0, 100.0))
  np.testing.assert_allclose(b.value, a.value, rtol=1e-6)
  np.testing.assert_allclose(b.error, a.error, rtol=1e-6)
  np.testing.assert_allclose(r2rise.importance_map(MASKS, 3 * RETURNS).value, 3 * a.value, rtol=1e-9)
  raw = [np.argsort(r2rise.importance_map(MASKS, RETURNS + c, 'raw_sum').value) for c in (0.0, 100.0)]
  assert not np.array_equal(*raw)
  # The sums themselves, in float32 as a compiled step holds them.
  sums = [
    r2rise.importance_update(r2rise.importance_init(6, xp=jnp), jnp.asarray(MASKS), jnp.asarray(RETURNS + c))
    for c in (0.0, 100.0)
  ]
  np.testing.assert_allclose(r2rise.finalise(sums[1]).value, a.value, atol=1e-4)


def test_a_cell_that_is_always_kept_has_no_contrast_and_ranks_last():
  always = MASKS.copy()
  always[:, 2] = True
  result = r2rise.importance_map(always, RETURNS)
  assert np.isnan(result.value[2]) and np.isfinite(np.delete(result.value, 2)).all()
  assert importance.rank_cells(result.value)[-1] == 2
  once = MASKS.copy()
  once[:, 2] = np.arange(60) == 5
  result = r2rise.importance_map(once, RETURNS)
  assert np.isfinite(result.value[2]) and np.isnan(result.error[2])
  assert np.isnan(r2rise.importance_map(np.ones((4, 3)), np.arange(4.0)).value).all()


@pytest.mark.parametrize('statistic', ['variance', 'max'])
def test_the_p_value_of_returns_without_masks_is_uniform(statistic):
  rng = np.random.default_rng(5)
  p = [
    r2rise.equality_test(rng.random((24, 8)) < 0.5, rng.normal(size=24), 99, seed, statistic).p_value
    for seed in range(200)
  ]
  # p is a multiple of 1/100; spread over its step it is uniform on (0, 1).
  assert stats.kstest(np.asarray(p) - rng.random(200) / 100, 'uniform').pvalue > 0.01
  assert r2rise.equality_test(MASKS, RETURNS, 199, statistic=statistic).p_value < 0.01


def test_discoveries_keep_the_rate():
  rng = np.random.default_rng(1)
  masks_ = rng.random((400, 50)) < 0.5
  effects = np.zeros(50)
  effects[:10] = 1.0
  found = r2rise.discoveries(r2rise.importance_map(masks_, masks_ @ effects + rng.normal(size=400)))
  assert found[:10].all() and found[10:].sum() <= 4
  assert not r2rise.discoveries(r2rise.importance_map(masks_, rng.normal(size=400))).sum() > 2


def test_reliability_predicts_the_correlation_of_two_independent_maps():
  rng = np.random.default_rng(2)
  effects = rng.normal(size=40)
  maps, predicted = [], []
  for _ in range(2):
    drawn = rng.random((300, 40)) < 0.5
    returns = drawn @ effects + 3 * rng.normal(size=300)
    maps.append(r2rise.importance_map(drawn, returns).value)
    predicted.append(r2rise.split_half_reliability(drawn, returns))
  pair = r2rise.agreement(*maps, tuple(predicted))
  assert pair.low < pair.ceiling < pair.high and pair.low < pair.spearman < pair.high
  np.testing.assert_allclose(pair.kendall, stats.kendalltau(*maps).statistic)
  assert r2rise.agreement(maps[0], maps[0], (1.0, 1.0)).overlap == 1.0
  assert np.isnan(statistics.correlation(maps[0], np.ones(40)))


def test_truth_scores_are_those_of_ranks():
  truth = np.asarray([[True, False, True], [False, False, True]])
  value = np.asarray([[3.0, 1.0, 1.0], [np.nan, 0.0, 2.0]])
  # Pairs (important, not): 3, 2 and 1 each against 1, NaN and 0; the tie counts one half.
  assert r2rise.truth_scores(value, truth)[0] == pytest.approx(8.5 / 9)
  with pytest.raises(ValueError, match='one class'):
    r2rise.truth_scores(value, np.ones((2, 3)))
  with pytest.raises(ValueError, match='shape'):
    r2rise.truth_scores(value, truth[:1])


@pytest.mark.parametrize(
  'call, message',
  [
    (lambda: r2rise.importance_map(MASKS, RETURNS, 'mean'), "estimator='mean'"),
    (lambda: r2rise.importance_map(MASKS[:5], RETURNS), 'masks have length 5, returns 60'),
    (lambda: r2rise.importance_map(MASKS[:1], RETURNS[:1]), 'N < 2'),
    (lambda: r2rise.importance_map(MASKS, np.where(np.arange(60) == 5, np.nan, RETURNS)), 'return of mask 5 is nan'),
    (lambda: r2rise.sample_masks(jax.random.key(0), 1, 1, 5, 1, 0.5), 'N=1'),
    (lambda: r2rise.sample_masks(jax.random.key(0), 4, 1, 5, 6, 0.5), 'block=6'),
    (lambda: r2rise.sample_masks(jax.random.key(0), 4, 1, 5, 1, 1.0), 'p=1.0'),
    (lambda: masks.check_chunk(8, 3), 'chunk=3'),
    (lambda: r2rise.equality_test(MASKS, RETURNS, statistic='mean'), "statistic='mean'"),
    (lambda: r2rise.equality_test(np.ones((60, 6)), RETURNS), 'No cell'),
    (lambda: statistics.correlation(MASKS[0], MASKS[0], 'cosine'), "kind='cosine'"),
    (lambda: r2rise.finalise(r2rise.importance_init(3), 'ridge'), 'gram=True'),
  ],
)
def test_what_cannot_be_is_named(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_every_estimator_ranks_clear_effects_alike():
  rng = np.random.default_rng(7)
  half = rng.random((300, 6)) < 0.5
  drawn = np.stack([half, ~half], axis=1).reshape(600, 6)
  returns = drawn @ EFFECTS + 0.1 * rng.normal(size=600)
  for name in ESTIMATORS:
    assert np.argsort(-r2rise.importance_map(drawn, returns, name).value)[:3].tolist() == [0, 2, 5], name


@pytest.mark.parametrize('pairs', [False, True])
def test_reliability_needs_two_masks_in_each_half(pairs):
  rng = np.random.default_rng(0)
  masks, returns = rng.integers(0, 2, (8, 6)), rng.random(8)
  found = [r2rise.split_half_reliability(masks[:n], returns[:n], pairs=pairs) for n in range(2, 9)]
  assert np.isnan(found[:2]).all()
  assert np.isfinite(found[-1])
