"""Confidence scores against SciPy, and what calibration does to them."""

import jax
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxpapers.predictive_exit import scores, tables


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


@pytest.fixture
def logits():
  return 4 * np.random.default_rng(0).normal(size=(50, 6, 5))


def test_scores_are_what_they_are_called(logits):
  p = scipy.special.softmax(logits, axis=-1)
  top, raw = np.sort(p, axis=-1)[..., ::-1], np.sort(logits, axis=-1)[..., ::-1]
  np.testing.assert_allclose(scores.max_prob(logits), top[..., 0], atol=1e-13)
  np.testing.assert_allclose(scores.margin(logits), top[..., 0] - top[..., 1], atol=1e-13)
  np.testing.assert_allclose(scores.neg_entropy(logits), 1 - scipy.stats.entropy(p, axis=-1) / np.log(5), atol=1e-12)
  np.testing.assert_allclose(scores.logit_margin(logits), raw[..., 0] - raw[..., 1], atol=1e-13)


def test_probabilities_that_underflow_have_no_entropy():
  assert scores.neg_entropy(np.array([0.0, -5000.0, -9000.0])) == 1.0
  np.testing.assert_allclose(scores.neg_entropy(np.zeros(7)), 0.0, atol=1e-14)
  assert np.isnan(scores.neg_entropy(np.array([np.nan, 0.0])))


@pytest.mark.parametrize('name', ['max_prob', 'margin', 'neg_entropy', 'logit_margin'])
def test_scores_know_neither_a_constant_nor_the_order_of_classes(logits, name):
  changed = (logits + 3.0)[..., np.random.default_rng(1).permutation(5)]
  np.testing.assert_allclose(scores.score(name)(changed), scores.score(name)(logits), atol=1e-12)


def test_temperature_recovers_the_scale_of_the_logits():
  rng = np.random.default_rng(2)
  true = rng.normal(size=(4000, 4))
  labels = (scipy.special.softmax(true, -1).cumsum(-1) > rng.random((4000, 1))).argmax(-1)
  stretched = np.stack([true * 3.0, true * 0.5], axis=1)
  temperature = np.asarray(scores.fit_temperatures(stretched, labels))
  # The same data under another scale: the ratio is exact, the value as good as 4,000 samples make it.
  np.testing.assert_allclose(temperature[0] / temperature[1], 6.0, rtol=1e-9)
  np.testing.assert_allclose(temperature, [3.0, 0.5], rtol=0.1)


def test_unknown_score_lists_the_known():
  with pytest.raises(ValueError, match=r"'entropy' is not known; known: max_prob, margin"):
    scores.score('entropy')


@pytest.mark.parametrize(
  ('shape', 'labels', 'message'),
  [
    ((4, 5), np.zeros(4, int), r'logits \[samples, exits, classes\], not an array of shape \(4, 5\)'),
    ((4, 1, 5), np.zeros(4, int), 'one exit'),
    ((0, 3, 5), np.zeros(0, int), 'calibration set is empty'),
    ((4, 3, 5), np.zeros(3, int), 'one integer label per sample'),
    ((4, 3, 5), np.full(4, 5), r'outside 0..4'),
  ],
)
def test_tables_that_cannot_be_are_refused(shape, labels, message):
  with pytest.raises(ValueError, match=message):
    tables.check_table(tables.ExitTable(np.zeros(shape), labels), 'calibration')


def test_other_arguments_that_cannot_be_are_refused():
  with pytest.raises(ValueError, match='one for each of the 6 exits'):
    tables.check_thresholds(np.zeros(5), 6)
  with pytest.raises(ValueError, match='threshold is NaN'):
    tables.check_thresholds(np.nan, 6)
  with pytest.raises(ValueError, match=r'starting exit 6 is outside 0..5'):
    tables.check_start(6, 6)
  with pytest.raises(ValueError, match='ascending'):
    tables.check_edges([0.5, 0.2])
  good = tables.Costs(*(np.ones(4) for _ in range(4)))
  assert tables.check_costs(good, 4) is good
  with pytest.raises(ValueError, match='head_macs needs one number for each of the 4 exits'):
    tables.check_costs(good._replace(head_macs=np.ones(3)), 4)
  with pytest.raises(ValueError, match='segment_bytes holds a negative number'):
    tables.check_costs(good._replace(segment_bytes=-np.ones(4)), 4)
  with pytest.raises(ValueError, match='no work at all'):
    tables.check_costs(good._replace(segment_macs=np.zeros(4)), 4)
