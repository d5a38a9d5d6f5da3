"""Metrics of every replica on the test nodes, summarised over the seeds."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from jaxpapers.reliant import metrics
from jaxpapers.reliant.data import Dataset
from jaxpapers.reliant.replicas import Grid

NAMES = ('accuracy', 'f1', 'auc', 'dsp', 'deo')


def scores(probabilities: np.ndarray, sets: Sequence[Dataset], grid: Grid) -> dict[str, np.ndarray]:
  """{metric: [points, seeds]} on the test nodes.

  Args:
    probabilities: [R, N, C].
    sets: one data set for all seeds, or one each.
    grid: which replicas.
  """
  rows = []
  for replica, values in enumerate(np.asarray(probabilities)):
    loaded = sets[replica % grid.seeds % len(sets)]
    test = loaded.splits.test
    rows.append(metrics.summary(values[test], loaded.labels[test], loaded.sensitive[test]))
  return {name: np.array([row[name] for row in rows]).reshape(-1, grid.seeds) for name in NAMES}


def suffix(grid: Grid, index: int) -> str:
  """What metrics of point `index` are called after; '' for the main point."""
  point = grid.points[index]
  if index == 0:
    return ''
  return f'_{point.metric}' if point.metric != grid.points[0].metric else f'_alpha_{point.alpha:.4g}'


def summarize(sets: Sequence[Dataset], grid: Grid) -> Callable[[Iterable[np.ndarray]], Mapping[str, float]]:
  """Mean over seeds of every metric at every point, and its deviation (`_sd`) where there are several seeds."""

  def run(outputs):
    found = scores(next(iter(outputs)), sets, grid)
    result = {}
    for index in range(len(grid.points)):
      end = suffix(grid, index)
      for name, values in found.items():
        result[name + end] = float(values[index].mean())
        if grid.seeds > 1:
          result[f'{name}{end}_sd'] = float(values[index].std(ddof=1))
    return result

  return run
