"""Splits: disjoint and complete parts, no video or source in two of them, and look-ups."""

import numpy as np
import pytest

from jaxpapers.vr_quality import splits

SOURCES = np.random.default_rng(0).integers(-1, 20, 60)


@pytest.mark.parametrize(
  'split', [splits.official(3, 240), splits.by_video(3, 60), splits.by_source(3, SOURCES), splits.in_order(40, 60)]
)
def test_parts_are_disjoint_and_complete(split):
  np.testing.assert_array_equal(np.sort(np.concatenate(split)), np.arange(240))
  assert len(split.train) > 100 and len(split.test) > 20


def test_grouped_splits_do_not_leak():
  _, video = splits.rows_of(60)
  own = splits.own_groups(SOURCES)
  assert len(np.unique(own[SOURCES < 0])) == (SOURCES < 0).sum()
  assert splits.leak(splits.official(0, 240), video) > 0.7
  for seed in range(4):
    assert splits.leak(splits.by_video(seed, 60), video) == 0
    split = splits.by_source(seed, SOURCES)
    parts = [set(own[video[part]]) for part in split]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert 0.45 < len(split.train) / 240 < 0.75 and len(split.valid) and len(split.test)
  assert not np.array_equal(splits.by_source(0, SOURCES).train, splits.by_source(1, SOURCES).train)
  with pytest.raises(ValueError, match='not 60'):
    splits.in_order(60, 60)


def test_lookup_fills_a_table_from_training_rows_only():
  condition, video = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1, 2, 0, 1, -1])
  mos = np.array([1.0, 3.0, 9.0, 4.0, 9.0, 6.0])
  train = np.array([0, 1, 3, 5])  # condition means 2 and 5; video 0: -1 and -1, video 1: +1
  np.testing.assert_allclose(splits.lookup(mos, condition, train), [2, 2, 2, 5, 5, 5])
  np.testing.assert_allclose(splits.lookup(mos, condition, train, video), [1, 3, 2, 4, 6, 5])
  np.testing.assert_array_equal(splits.whole_batches(np.arange(19), 8), np.arange(16))
