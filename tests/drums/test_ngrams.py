"""The line models: probabilities, counts by hand, and the numbers of table 7.3."""

import numpy as np
import pytest

from jaxpapers.drums import data, ngrams, notation


@pytest.fixture(scope='module')
def records():
  bundled = data.records(data.bundled(), official=True)
  return {split: [groove.grid for groove in several] for split, several in bundled.items()}


@pytest.fixture(scope='module')
def model(records):
  return ngrams.fit(records['train'])


def test_models_are_distributions(model):
  for table in model:
    np.testing.assert_allclose(table.sum(axis=-1), 1.0)
    assert np.all(table > 0)


def test_counts_by_hand():
  generator = np.random.default_rng(0)
  grooves = [notation.grid_of(generator.integers(0, 4, 16 * n)) for n in (3, 5)]
  partial = np.concatenate([grooves[0], np.ones((7, 6), bool)])
  model = ngrams.fit([partial, grooves[1]], rounds=0)
  ids = [notation.line_ids(grid).tolist() for grid in grooves]
  lines = [line for several in ids for line in several]
  unigram = [(lines.count(i) + 0.5) / (len(lines) + 32) for i in range(64)]
  np.testing.assert_allclose(model.unigram, unigram)
  place = [several[t] for several in ids for t in range(5, len(several), 16)]
  position = [(place.count(i) + 0.5 * unigram[i]) / (len(place) + 0.5) for i in range(64)]
  np.testing.assert_allclose(model.position[5], position)
  after = [b for several in ids for a, b in zip(several[:-1], several[1:], strict=True) if a == 2]
  bigram = [(after.count(i) + 5 * unigram[i]) / (len(after) + 5) for i in range(64)]
  np.testing.assert_allclose(model.bigram[2], bigram)
  np.testing.assert_allclose(model.weights, 1 / 6)


def test_expectation_maximisation_never_gets_worse(records):
  some = records['train'][:40]
  losses = []
  for rounds in (0, 1, 2, 5, 20):
    model = ngrams.fit(some, rounds)
    fitted = [g[:96] for g in some if g[32:48].any()]
    losses.append(ngrams.nats_per_line(model, fitted)['mixture'])
  assert np.all(np.diff(losses) < 0)


def test_the_table_of_nats_per_line(model, records):
  def row(split, first, whole=False):
    grids = records[split] if whole else [records[split][i] for i in ngrams.sounding(records[split])[:first]]
    return len(grids), *ngrams.nats_per_line(model, grids, 32, None if whole else 64).values()

  assert row('dev', 5) == (5, *map(pytest.approx, (2.533, 2.385, 0.599), [None] * 3, [5e-4] * 3))
  assert row('dev', 10) == (10, *map(pytest.approx, (2.491, 2.361, 0.834), [None] * 3, [5e-4] * 3))
  assert row('dev', None) == (45, *map(pytest.approx, (2.258, 2.067, 0.974), [None] * 3, [5e-4] * 3))
  assert row('test', None) == (34, *map(pytest.approx, (2.430, 2.229, 1.052), [None] * 3, [5.5e-4] * 3))
  assert row('dev', None, True) == (47, *map(pytest.approx, (2.126, 1.969, 0.943), [None] * 3, [5e-4] * 3))
  assert row('test', None, True) == (37, *map(pytest.approx, (2.031, 1.900, 0.979), [None] * 3, [5e-4] * 3))


def test_a_repeated_measure_costs_the_mixture_almost_nothing(model, records):
  grid = np.tile(records['test'][0][32:48], (6, 1))
  nats = ngrams.nats(model, grid)
  assert nats['lines'] == 64 and nats['mixture'] / 64 < 0.5 < nats['unigram'] / 64


def test_what_cannot_be_scored(model):
  assert ngrams.nats(model, np.zeros((20, 6), bool)) == {'lines': 0, 'unigram': 0, 'position': 0, 'mixture': 0}
  assert ngrams.nats_per_line(model, []) == {'unigram': 0, 'position': 0, 'mixture': 0}
  with pytest.raises(ValueError, match='line 32 or later'):
    ngrams.nats(model, np.zeros((64, 6), bool), start=16)
  with pytest.raises(ValueError, match='third measure'):
    ngrams.fit([np.zeros((64, 6), bool)])
