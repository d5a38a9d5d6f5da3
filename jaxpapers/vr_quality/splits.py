"""Training, validation and test parts, and the look-up baselines that never see a pixel.

The published split deals out conditions, so nearly every test row has its video in training under another condition.
`lookup` measures what that alone is worth; report it beside every model. Rows are numbered as in `infoAB_all`:
condition by condition, all videos in each (`rows_of`).
"""

from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
  """Row numbers of three disjoint parts, int64, in the order in which they were drawn."""

  train: np.ndarray
  valid: np.ndarray
  test: np.ndarray


def rows_of(videos: int, conditions: int = 4) -> tuple[np.ndarray, np.ndarray]:
  """(condition, video) of every row, int64 [conditions * videos]."""
  return np.repeat(np.arange(conditions), videos), np.tile(np.arange(videos), conditions)


def official(seed: int, rows: int = 2008) -> Split:
  """The published split, bit for bit: legacy NumPy permutation of rows, 60 / 20 / 20 %. It leaks: see the top."""
  order = np.random.RandomState(seed).permutation(rows)  # only the legacy generator is bit-exact
  return Split(*(part.astype(np.int64) for part in np.split(order, _cuts(rows))))


def by_video(seed: int, videos: int = 502, conditions: int = 4) -> Split:
  """All conditions of a video in one part: legacy NumPy permutation of videos, 60 / 20 / 20 %.

  Source: this library's own.
  """
  order = np.random.RandomState(seed).permutation(videos)
  return _rows_of_videos(np.split(order, _cuts(videos)), videos, conditions)


def by_source(seed: int, source_group: np.ndarray, conditions: int = 4) -> Split:
  """All videos of one upload in one part, about 60 / 20 / 20 % of the videos. Source: this library's own.

  Args:
    seed: of the order of the sources.
    source_group: [videos] integers; -1 = unknown, a source of its own.
    conditions: per video.
  """
  groups = own_groups(source_group)
  names, sizes = np.unique(groups, return_counts=True)
  order = np.random.RandomState(seed).permutation(len(names))
  middle = np.cumsum(sizes[order]) - sizes[order] / 2.0
  part_of_name = np.empty(len(names), np.int64)
  part_of_name[order] = np.searchsorted(_cuts(len(groups)), middle, side='right')
  part = part_of_name[np.searchsorted(names, groups)]
  return _rows_of_videos([np.flatnonzero(part == i) for i in range(3)], len(groups), conditions)


def in_order(train: int = 400, videos: int = 502, conditions: int = 4) -> Split:
  """The first `train` videos and the rest, without a validation part (later work of the same group).

  Raises:
    ValueError: if a part would be empty.
  """
  if not 0 < train < videos:
    raise ValueError(f'Between 1 and {videos - 1} of {videos} videos can train, not {train}.')
  empty = np.zeros(0, np.int64)
  return _rows_of_videos([np.arange(train), empty, np.arange(train, videos)], videos, conditions)


def own_groups(source_group: np.ndarray) -> np.ndarray:
  """[videos] int64 source numbers in which every unknown (-1) source has a number of its own."""
  groups = np.asarray(source_group, np.int64).copy()
  unknown = np.flatnonzero(groups < 0)
  groups[unknown] = groups.max(initial=-1) + 1 + np.arange(len(unknown))
  return groups


def whole_batches(rows: np.ndarray, batch_size: int) -> np.ndarray:
  """Rows without the incomplete last batch, as the published loaders drop it."""
  return rows[: len(rows) // batch_size * batch_size]


def leak(split: Split, group: np.ndarray) -> float:
  """Share of test rows whose group (video or source; [rows]) is in training. Source: this library's own."""
  group = np.asarray(group)
  return float(np.isin(group[split.test], group[split.train]).mean()) if len(split.test) else float('nan')


def lookup(mos: np.ndarray, condition: np.ndarray, train: np.ndarray, group: np.ndarray | None = None) -> np.ndarray:
  """Predictions [rows] of a table: training mean of the condition, plus what the row's group did in training.

  Source: this library's own.

  Args:
    mos: [rows].
    condition: [rows] integers.
    train: row numbers.
    group: [rows] integers, video or source; -1 = none. The mean of MOS - condition mean over its training rows is
      added, 0 without any. None: condition means only.
  """
  mos, train = np.asarray(mos, np.float64), np.asarray(train)
  predictions = _group_means(mos, condition, train)[condition]
  if group is None:
    return predictions
  group = np.asarray(group, np.int64)
  shift = _group_means(mos - predictions, group, train[group[train] >= 0])
  return predictions + np.where(group >= 0, np.nan_to_num(shift[group]), 0.0)


def _cuts(n: int) -> list[int]:
  return [n * 6 // 10, n * 8 // 10]


def _rows_of_videos(parts: list[np.ndarray], videos: int, conditions: int) -> Split:
  return Split(*((np.arange(conditions)[:, None] * videos + part).ravel().astype(np.int64) for part in parts))


def _group_means(values: np.ndarray, group: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """[groups] mean of `values` over the `rows` of a group; NaN without any."""
  # Group by group, as a table would be filled: sums in another order differ in the last bit, which unties ranks.
  rows = rows[np.argsort(group[rows], kind='stable')]
  names, starts = np.unique(group[rows], return_index=True)
  means = np.full(int(group.max(initial=0)) + 1, np.nan)
  means[names] = [values[part].mean() for part in np.split(rows, starts[1:]) if len(part)]
  return means
