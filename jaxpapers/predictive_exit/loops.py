"""The official walk and a sweep of thresholds as plain Python loops over samples, which the benchmark compares with.

Arguments are lists (`tolist()` of an array) or arrays, whose scalars cost Python far more time.
"""

import bisect
import math
from collections.abc import Sequence
from typing import NamedTuple

Matrix = Sequence[Sequence[float]]


class Row(NamedTuple):
  """A scheme at one threshold; the fields of `sweep.Curve` without shares."""

  calibration_accuracy: float
  calibration_compute: float
  accuracy: float
  compute: float
  heads: float
  depth: float


class Known(NamedTuple):
  """Samples of a set: scores [samples][exits], and whether every exit names the label [samples][exits]."""

  scores: Matrix
  right: Sequence[Sequence[bool]]


def forecast(z: list[float], k: int, levels: Sequence[float], beta: float, rounds: int) -> int:
  """The official engine at exit `k` (from 0) with logits `z`, see `prediction.forecast_steps`."""
  last = len(levels) - 1
  for i in range(rounds):
    z = [a + b + c for a, b, c in zip([0.0, *z[:-1]], z, [*z[1:], 0.0], strict=True)]
    if max(map(abs, z)) > beta * levels[min(k + 1 + i, last)]:
      return i + 1
  return rounds


def official_walk(
  logits: Sequence[Matrix], levels: Sequence[float], beta: float, start: int, rounds: int = 8
) -> list[tuple[int, list[int], int]]:
  """(exit, exits visited, label) of every sample, see `prediction.official_walk`; targets are clipped.

  Args:
    logits: [samples][E + 1][classes].
    levels: [E] activation levels.
    beta: > 0.
    start: number of the first exit that is tested, 1..E.
    rounds: of the engine.
  """
  last, found = len(levels) - 1, []
  for table in logits:
    k, visited = start - 1, []
    while True:
      visited.append(k)
      z = table[k]
      if max(map(abs, z)) >= beta * levels[k]:
        break
      if k == last:
        k += 1
        break
      k = min(k + forecast(z, k, levels, beta, rounds), last)
    z = table[k]
    found.append((k, visited, z.index(max(z))))
  return found


def fit_table(scores: Matrix, theta: float, edges: Sequence[float], q: float, min_count: int = 10) -> list[list[int]]:
  """Steps [exits][bins], see `engines.fit_table`."""
  exits, bins = len(scores[0]), len(edges) + 1
  distances: list[list[list[int]]] = [[[] for _ in range(bins)] for _ in range(exits)]
  for row in scores:
    ahead = exits - 1
    for k in range(exits - 2, -1, -1):
      if row[k] >= theta:
        ahead = k
      else:
        distances[k][bisect.bisect_right(edges, row[k])].append(ahead - k)

  def quantile(values: list[int]) -> int:
    return sorted(values)[max(math.ceil(q * len(values)) - 1, 0)] if values else 1

  steps = []
  for by_bin in distances:
    whole = quantile([d for values in by_bin for d in values])
    steps.append([quantile(values) if len(values) >= min_count else whole for values in by_bin])
  return steps


def swept(
  known: Known,
  theta: float,
  steps: Matrix | None,
  edges: Sequence[float],
  segments: Sequence[float],
  heads: Sequence[float],
) -> tuple[float, float, float, float]:
  """(accuracy, multiply-adds, heads, depth) a sample; without `steps` every exit is visited and none is forecast."""
  last = len(segments) - 1
  before = [sum(segments[: k + 1]) for k in range(last + 1)]
  right = work = visits = depth = 0.0
  for row, hit in zip(known.scores, known.right, strict=True):
    k = 0
    work += heads[0]
    visits += 1
    while k < last and not row[k] >= theta:
      if steps is None:
        k += 1
      else:
        k = min(k + steps[k][bisect.bisect_right(edges, row[k])], last)
        work += last + 1
      work += heads[k]
      visits += 1
    right += hit[k]
    work += before[k]
    depth += k
  count = len(known.scores)
  return right / count, work / count, visits / count, depth / count


def sweep(
  calibration: Known,
  test: Known,
  thetas: Sequence[float],
  edges: Sequence[float],
  q: float,
  segments: Sequence[float],
  heads: Sequence[float],
) -> dict[str, list[Row]]:
  """'classic' and 'predictive' (by a step table) at every threshold, see `sweep.sweep`.

  Args:
    calibration: what the step table is learned from, for every threshold again.
    test: what is reported.
    thetas: thresholds.
    edges: of the score bins.
    q: caution of the table.
    segments: [exits] multiply-adds.
    heads: [exits] multiply-adds; the last is the classifier. A forecast costs one per exit.
  """
  plain = sum(segments) + heads[-1]
  rows: dict[str, list[Row]] = {'classic': [], 'predictive': []}
  for theta in thetas:
    for name, line in rows.items():
      steps = fit_table(calibration.scores, theta, edges, q) if name == 'predictive' else None
      before, found = (swept(known, theta, steps, edges, segments, heads) for known in (calibration, test))
      line.append(Row(before[0], before[1] / plain, found[0], found[1] / plain, *found[2:]))
  return rows
