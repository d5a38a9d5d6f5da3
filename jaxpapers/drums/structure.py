"""The stability curve of a groove and its summaries: near-repetition with now and then a large change."""

import random
from collections.abc import Sequence
from typing import NamedTuple

import chex
import numpy as np

from jaxpapers.drums.notation import LINE_TEXT, STEPS, to_text

MOST_MEASURES = 16
_ROWS_AT_ONCE = 4096


class Stability(NamedTuple):
  """Summary of the curves of a corpus; zeros where there is nothing to count.

  Attributes:
    mean: of all values pooled.
    between: distance of the two centres of a groove's values, averaged over grooves with a value.
    within: mean absolute distance of a value to its centre, averaged likewise.
    values: number pooled.
    grooves: number with a value.
  """

  mean: float
  between: float
  within: float
  values: int
  grooves: int


def levenshtein(a: np.ndarray, b: np.ndarray, a_length: np.ndarray, b_length: np.ndarray) -> np.ndarray:
  """[pairs] int edit distances, unit costs, all pairs at once. Source: the edit distance of the paper's stability.

  Within a row of the table the way through the left neighbour is a running minimum of distance minus column.

  Args:
    a: [pairs, n] integers, characters; what lies behind a row's length is not looked at.
    b: [pairs, m], likewise.
    a_length: [pairs] 0..n.
    b_length: [pairs] 0..m.
  """
  a, b = np.asarray(a), np.asarray(b)
  chex.assert_rank([a, b], 2)
  chex.assert_equal_shape_prefix([a, b, a_length, b_length], 1)
  pairs, n, m = len(a), a.shape[1], b.shape[1]
  kind = np.int16 if n + m < np.iinfo(np.int16).max else np.int64
  column = np.arange(m + 1, dtype=kind)
  row = np.broadcast_to(column, (pairs, m + 1)).copy()
  best = row.copy()
  result = row[np.arange(pairs), b_length].astype(np.int64)
  for i in range(n):
    best[:, 0] = i + 1
    np.minimum(row[:, 1:] + kind(1), row[:, :-1] + (a[:, i, None] != b), out=best[:, 1:])
    best -= column
    np.minimum.accumulate(best, axis=1, out=row)
    row += column
    done = np.flatnonzero(a_length == i + 1)
    result[done] = row[done, b_length[done]]
  return result


def measure_strings(
  groove: str | np.ndarray, most: int | None = MOST_MEASURES, drop_incomplete: bool = False
) -> list[str]:
  """The first measures of a text or a grid [steps, 6] as the strings that are compared.

  A string is the lines of the measure, newlines included, joined by a further newline.

  Args:
    groove: SEP lines must have been taken out of a text; any other line is kept as it is, legal or not.
    most: number of measures; None is all.
    drop_incomplete: leave out a last measure of fewer than 16 lines, which officially counts.
  """
  *lines, last = (groove.replace('\r\n', '\n') if isinstance(groove, str) else to_text(groove)).split('\n')
  lines = [line + '\n' for line in lines] + [last] * bool(last)
  parts = [lines[i : i + STEPS] for i in range(0, len(lines), STEPS)][:most]
  return ['\n'.join(part) for part in parts if len(part) == STEPS or not drop_incomplete]


def stability_curves(
  grooves: Sequence[str | np.ndarray], most: int | None = MOST_MEASURES, drop_incomplete: bool = False
) -> list[np.ndarray]:
  """Per groove [measures - 2] int: edit distance of each inner measure to the nearer of its two neighbours.

  Every pair of neighbours is compared once, those of all grooves together. Fewer than three measures give [0].

  Source: the paper's structural measure, as in the authors' code.
  """
  measures = [measure_strings(groove, most, drop_incomplete) for groove in grooves]
  pairs = [pair for groove in measures for pair in zip(groove[:-1], groove[1:], strict=True)]
  distances = _distances(pairs)
  ends = np.cumsum([max(len(groove) - 1, 0) for groove in measures])
  parts = np.split(distances, ends[:-1]) if len(ends) else []
  return [np.minimum(part[:-1], part[1:]) for part in parts]


def stability(groove: str | np.ndarray, most: int | None = MOST_MEASURES, drop_incomplete: bool = False) -> np.ndarray:
  """`stability_curves` of one groove. Source: the paper's structural measure."""
  return stability_curves([groove], most, drop_incomplete)[0]


def self_distances(groove: str | np.ndarray, most: int = MOST_MEASURES) -> np.ndarray:
  """[measures, measures] int edit distances between all measures of a groove. Source: this library's own."""
  measures = measure_strings(groove, most)
  upper = np.triu_indices(len(measures), 1)
  result = np.zeros((len(measures), len(measures)), np.int64)
  result[upper] = _distances([(measures[i], measures[j]) for i, j in zip(*upper, strict=True)])
  return result + result.T


def two_means(values: np.ndarray) -> tuple[float, float]:
  """(distance of the centres, mean absolute distance to the own centre) of the exact split of numbers into two groups.

  Groups of least squares are intervals, so every split of the sorted values is tried. Equal values give (0, 0).

  Source: the authors' summaries of stability, by the exact split instead of a random start.
  """
  x = np.sort(np.asarray(values, np.float64))
  chex.assert_rank(x, 1)
  if len(x) < 2 or x[0] == x[-1]:
    return 0.0, 0.0
  count = np.arange(1, len(x))
  low = np.cumsum(x)[:-1] / count
  high = np.cumsum(x[::-1])[::-1][1:] / (len(x) - count)
  # The sum of squares within the groups is least where the one between them is largest.
  split = int(np.argmax(count * (len(x) - count) * (high - low) ** 2)) + 1
  centres = np.repeat([x[:split].mean(), x[split:].mean()], [split, len(x) - split])
  return float(centres[-1] - centres[0]), float(np.abs(x - centres).mean())


def summarise(curves: Sequence[np.ndarray]) -> Stability:
  """The summary of a corpus; empty curves count for nothing."""
  curves = [curve for curve in curves if len(curve)]
  if not curves:
    return Stability(0.0, 0.0, 0.0, 0, 0)
  between, within = np.mean([two_means(curve) for curve in curves], axis=0)
  pooled = np.concatenate(curves)
  return Stability(float(pooled.mean()), float(between), float(within), len(pooled), len(curves))


def repeat_baseline(grid: np.ndarray, measures: int = MOST_MEASURES) -> np.ndarray:
  """[measures * 16, 6]: the first measure of a groove, then its second again and again."""
  return np.concatenate([grid[:STEPS], np.tile(grid[STEPS : 2 * STEPS], (measures - 1, 1))])


def random_baseline(grooves: int, seed: int = 29, steps: int = MOST_MEASURES * STEPS) -> np.ndarray:
  """[grooves, steps, 6] fair coin flips of Python's generator, the ones that the authors drew for seed 29."""
  generator = random.Random(seed)
  width = LINE_TEXT.shape[1] - 1
  flips = [generator.randint(0, 1) for _ in range(grooves * steps * width)]
  return np.array(flips, bool).reshape(grooves, steps, width)


def _distances(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
  """[pairs] int edit distances of strings; equal ones are not looked at."""
  result = np.zeros(len(pairs), np.int64)
  unequal = [i for i, (a, b) in enumerate(pairs) if a != b]
  for start in range(0, len(unequal), _ROWS_AT_ONCE):
    some = unequal[start : start + _ROWS_AT_ONCE]
    (a, a_length), (b, b_length) = (_characters([pairs[i][side] for i in some]) for side in (0, 1))
    result[some] = levenshtein(a, b, a_length, b_length)
  return result


def _characters(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
  """([texts, longest] code points padded with 0, [texts] lengths)."""
  lengths = np.array([len(text) for text in texts])
  longest = int(lengths.max(initial=0))
  joined = ''.join(text.ljust(longest, '\0') for text in texts)
  return np.frombuffer(joined.encode('utf-32-le'), np.uint32).reshape(len(texts), longest), lengths
