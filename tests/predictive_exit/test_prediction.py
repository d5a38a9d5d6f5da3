"""The official criterion, engine, walk and score; activation thresholds; claims of order and constants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.predictive_exit import engines, prediction, thresholds
from jaxpapers.predictive_exit.scores import max_prob

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(40, 7, 5)).astype(np.float32) * np.linspace(1, 4, 7)[None, :, None].astype(np.float32)
LEVELS = np.asarray([0.5, 0.9, 0.7, 1.1, 0.6, 0.8])


def reference(z, beta, start, rounds, clip, quirks):
  """One sample through the method's text: (exit, visited)."""
  exits, visited, target = len(LEVELS), [], start
  for number in range(1, exits + 1):
    if number != target:
      continue
    visited.append(number - 1)
    x = z[number - 1].astype(np.float64)
    ratio = np.abs(x).max() / (beta * LEVELS[number - 1])
    if quirks and number == 1:
      ratio = np.abs(x).max() / beta * LEVELS[0]
    if ratio >= 1:
      return number - 1, visited
    if number == exits:
      break
    step = rounds
    for i in range(rounds):
      x = np.convolve(x, [1, 1, 1])[1:-1]
      if np.abs(x).max() > beta * LEVELS[min(number + i, exits - 1)]:
        step = i + 1
        break
    target = min(target + step, exits) if clip else target + step
  return exits, visited


@pytest.mark.parametrize('clip', [True, False])
@pytest.mark.parametrize('quirks', [True, False])
@pytest.mark.parametrize('start', [0, 1, 3, 6])
def test_walk_is_the_text(start, quirks, clip):
  for beta, rounds in ((3.0, 8), (9.0, 2)):
    way = prediction.official_walk(LOGITS, LEVELS, beta, start, rounds=rounds, clip_target=clip, official_quirks=quirks)
    for n, z in enumerate(LOGITS):
      taken, visited = reference(z, beta, start, rounds, clip, quirks)
      assert int(way.exit[n]) == taken and np.flatnonzero(way.visited[n]).tolist() == visited
      assert int(way.label[n]) == np.argmax(z[taken])


def test_limits_of_beta():
  near = prediction.official_walk(LOGITS, LEVELS, 1e-6, 3)
  assert np.all(near.exit == 2) and np.all(near.visited.sum(1) == 1)
  far = prediction.official_walk(LOGITS, LEVELS, 1e9, 1, rounds=2)
  assert np.all(far.exit == 6) and np.flatnonzero(far.visited[0]).tolist() == [0, 2, 4, 5]
  loose = prediction.official_walk(LOGITS, LEVELS, 1e9, 1, rounds=4, clip_target=False)
  assert np.flatnonzero(loose.visited[0]).tolist() == [0, 4]
  steps = prediction.forecast_steps(LOGITS[:, :6], LEVELS, 1e9, 5)
  assert np.all(steps == 5)


def test_plain_start_is_the_classifier_bit_for_bit():
  way = prediction.official_walk(LOGITS, LEVELS, 3.0, 0)
  assert np.all(way.exit == 6) and not np.any(way.visited)
  np.testing.assert_array_equal(way.label, LOGITS[:, 6].argmax(-1))


def test_engine_on_equal_entries_follows_the_zero_padded_sums():
  # Ones of 5 classes grow to largest sums 3, 9, 25 (the middle entry: 1, 3, 9 without the border, then it shows).
  z, peaks = np.ones(5), []
  for _ in range(4):
    z = np.convolve(z, [1, 1, 1])[1:-1]
    peaks.append(z.max())
  logits = jnp.ones((1, 6, 5))
  for i, peak in enumerate(peaks):
    step = prediction.forecast_steps(logits, np.ones(6), peak - 1e-3)
    assert np.all(step == i + 1)
    assert np.all(prediction.forecast_steps(logits, np.ones(6), peak) == i + 2)  # strictly above


def test_quirk_touches_samples_tested_at_the_first_exit_alone():
  for start, changed in ((1, True), (2, False)):
    ways = [prediction.official_walk(LOGITS, LEVELS, 4.0, start, official_quirks=q) for q in (True, False)]
    assert np.any(ways[0].exit != ways[1].exit) == changed


def test_permuting_samples_permutes_results_and_beta_can_be_mapped():
  order = RNG.permutation(len(LOGITS))
  way = prediction.official_walk(LOGITS, LEVELS, 4.0, 2)
  moved = prediction.official_walk(LOGITS[order], LEVELS, 4.0, 2)
  np.testing.assert_array_equal(moved.exit, way.exit[order])
  betas = jnp.asarray([2.0, 4.0, 8.0])
  swept = jax.jit(jax.vmap(lambda b: prediction.official_walk(LOGITS, LEVELS, b, 2).exit))(betas)
  np.testing.assert_array_equal(swept[1], way.exit)


def test_score_counts_what_is_beyond_eight():
  actual, predicted = np.asarray([1, 2, 9, 12, -1, 4]), np.asarray([1, 3, 8, 7, -1, 8])
  assert float(prediction.official_score(actual, predicted)) == pytest.approx(2 / 5)
  assert np.isnan(prediction.official_score([-1], [3]))
  errors = prediction.forecast_errors(actual, predicted)
  assert float(errors['exact']) == pytest.approx(0.2) and float(errors['late']) == pytest.approx(0.4)


def test_thresholds_are_signed_means_of_batches_and_absolute_at_the_end():
  batches = [RNG.normal(size=(n, 3, 4)) for n in (5, 2)]
  means = np.stack([thresholds.batch_activation(b) for b in batches])
  want = np.abs(np.mean([b.mean((0, 2)) for b in batches], 0))
  np.testing.assert_allclose(thresholds.activation_thresholds(means), want, rtol=1e-5)
  assert thresholds.official_batches() == 41 and thresholds.official_batches(256, 128) == 3


def test_probability_table_ignores_class_order_and_constants_and_the_official_engine_does_not():
  order = RNG.permutation(5)
  table = engines.fit_table(max_prob(LOGITS), 0.9, 0.5, 4)
  steps = engines.table_steps(table, max_prob(LOGITS))
  again = engines.table_steps(table, max_prob(LOGITS[..., order]))
  assert np.mean(steps != again) < 0.01
  official = prediction.forecast_steps(LOGITS[:, :6], LEVELS, 6.0)
  assert np.any(official != prediction.forecast_steps(LOGITS[:, :6][..., order], LEVELS, 6.0))
  exits = [prediction.official_walk(LOGITS + c, LEVELS, 4.0, 1).exit for c in (0.0, 0.3)]
  assert np.any(exits[0] != exits[1])


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'beta': 0.0}, 'beta must be positive'),
    ({'beta': float('nan')}, 'beta must be positive'),
    ({'thresholds': np.asarray([0.5, 0.9, 0.0, 1, 1, 1])}, 'threshold of exit 3'),
    ({'thresholds': np.ones(5)}, '6 exits need 6 thresholds'),
    ({'start': 7}, 'in 0..6, not 7'),
  ],
)
def test_bad_input_is_named(change, message):
  with pytest.raises(ValueError, match=message):
    prediction.official_walk(**({'logits': LOGITS, 'thresholds': LEVELS, 'beta': 3.0, 'start': 1} | change))
