"""Metrics against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.metrics import log_loss

from jaxpapers.xdeepint import metrics


@pytest.fixture
def sample():
  rng = np.random.default_rng(0)
  labels = (rng.random(4000) < 0.2).astype(np.int32)
  return labels, np.round(rng.normal(size=4000) + labels, 2)  # rounded: with ties


def test_summary_agrees_with_scikit_learn(sample):
  labels, logits = sample
  p = 1 / (1 + np.exp(-logits))
  got = metrics.summary(labels, logits)
  assert got['logloss'] == pytest.approx(log_loss(labels, p), rel=1e-12)
  rate = labels.mean()
  assert got['nce'] == pytest.approx(log_loss(labels, p) / log_loss(labels, np.full(4000, rate)), rel=1e-12)
  assert got['calibration'] == pytest.approx(p.mean() / rate)
  pairs = logits[labels == 1][:, None] - logits[labels == 0][None]
  assert got['auc'] == pytest.approx(np.mean((pairs > 0) + 0.5 * (pairs == 0)), abs=1e-12)


def test_log_loss_of_huge_logits_is_finite():
  assert metrics.log_loss(np.array([1, 0]), np.array([-1e4, -1e4])) == pytest.approx(5e3)
  assert np.isfinite(metrics.logits_of(np.array([0.0, 1.0], np.float32))).all()


def test_histograms_add_up_and_give_the_auc(sample):
  labels, logits = sample
  parts = sum(metrics.score_histogram(labels[i::3], logits[i::3]) for i in range(3))
  np.testing.assert_array_equal(parts, metrics.score_histogram(labels, logits))
  assert metrics.auc_of_histogram(parts) == pytest.approx(metrics.auc(labels, logits), abs=1e-3)


def test_one_class_gives_nan_and_a_warning():
  with pytest.warns(UserWarning, match='one class'):
    assert np.isnan(metrics.auc(np.zeros(3), np.arange(3)))
  assert np.isnan(metrics.auc_of_histogram(metrics.score_histogram(np.ones(3), np.arange(3.0))))
  assert np.isnan(metrics.normalized_cross_entropy(0.1, np.ones(3)))


def test_reliability_and_zero_rows(sample):
  labels, logits = sample
  predicted, observed, counts = metrics.reliability(labels, logits)
  assert counts.sum() == 4000 and (np.diff(predicted) > 0).all() and observed @ counts == labels.sum()
  table = np.array([[0, 0], [0, 1], [0, 0]])
  assert metrics.zero_rows(table) == pytest.approx(2 / 3)
  assert metrics.zero_rows(table, np.array([True, True, False])) == 0.5
