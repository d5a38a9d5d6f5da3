"""Line models that know no language: unigram, unigram by position, and the copy mixture.

A language model that does not predict better than the copy mixture has learnt no more than to repeat.
"""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import numpy as np

from jaxpapers.drums.notation import LINES, STEPS, line_ids

COMPONENTS = ('lag 16', 'lag 32', 'lags 4 and 8', 'unigram', 'position', 'bigram')
FIRST = 2 * STEPS
_PSEUDO_COUNT, _POSITION_PSEUDO_COUNT, _BIGRAM_PSEUDO_COUNT = 0.5, 0.5, 5.0
_LAST_FITTED = 6 * STEPS


class Ngrams(NamedTuple):
  """Fitted models.

  Attributes:
    unigram: [64] float64 probabilities.
    position: [16, 64] float64, by place in the measure.
    bigram: [64, 64] float64, rows are the line before.
    weights: [6] float64 of COMPONENTS in the copy mixture.
  """

  unigram: np.ndarray
  position: np.ndarray
  bigram: np.ndarray
  weights: np.ndarray


def fit(grids: Sequence[np.ndarray], rounds: int = 100) -> Ngrams:
  """Counts lines and finds the weights of the mixture by expectation-maximisation from equal weights.

  Every line of the unigram counts half a time more than it occurs. The rows by position and by the line before are
  smoothed with 0.5 and 5 further lines spread like the unigram. The weights are fitted on measures 3 to 6 of the
  grooves that have a hit in measure 3.

  Source: this library's own.

  Args:
    grids: training grooves [steps, 6] bool; a last measure that is not whole is left out.
    rounds: of expectation-maximisation.

  Raises:
    ValueError: if no groove has a hit in its third measure.
  """
  grooves = [line_ids(grid[: len(grid) // STEPS * STEPS]).astype(np.intp) for grid in grids]
  counts, pairs = np.zeros((STEPS, LINES)), np.zeros((LINES, LINES))
  for ids in grooves:
    np.add.at(counts, (np.arange(len(ids)) % STEPS, ids), 1.0)
    np.add.at(pairs, (ids[:-1], ids[1:]), 1.0)
  unigram = _normalised(counts.sum(axis=0) + _PSEUDO_COUNT)
  model = Ngrams(
    unigram,
    _normalised(counts + _POSITION_PSEUDO_COUNT * unigram),
    _normalised(pairs + _BIGRAM_PSEUDO_COUNT * unigram),
    np.full(len(COMPONENTS), 1.0 / len(COMPONENTS)),
  )
  fitted = [ids for ids in grooves if np.any(ids[FIRST : FIRST + STEPS])]
  if not fitted:
    raise ValueError('No training groove has a hit in its third measure: there is nothing to fit the mixture on.')
  table = np.concatenate([components(model, ids, FIRST, _LAST_FITTED) for ids in fitted])
  weights = model.weights
  for _ in range(rounds):
    weights = _normalised(table * weights).mean(axis=0)
  return model._replace(weights=weights)


def components(model: Ngrams, ids: np.ndarray, start: int = FIRST, stop: int | None = None) -> np.ndarray:
  """[lines, 6] probabilities that each of COMPONENTS gives to lines start..stop-1 of `ids` [steps].

  Raises:
    ValueError: if `start` lies before the third measure: lines 32 back are looked at.
  """
  chex.assert_rank(ids, 1)
  if start < FIRST:
    raise ValueError(f'The mixture looks {FIRST} lines back: start at line {FIRST} or later, not {start}.')
  ids = np.asarray(ids, np.intp)
  t = np.arange(start, min(len(ids), len(ids) if stop is None else stop))
  same = {lag: (ids[t] == ids[t - lag]).astype(np.float64) for lag in (4, 8, 16, 32)}
  return np.stack(
    [
      same[16],
      same[32],
      0.5 * same[4] + 0.5 * same[8],
      model.unigram[ids[t]],
      model.position[t % STEPS, ids[t]],
      model.bigram[ids[t - 1], ids[t]],
    ],
    axis=1,
  )


def nats(model: Ngrams, grid: np.ndarray, start: int = FIRST, stop: int | None = None) -> dict[str, float]:
  """Summed nats of lines start..stop-1 of `grid` [steps, 6]; divide by 'lines', their number, for nats per line."""
  table = components(model, line_ids(grid), start, stop)
  return {
    'lines': float(len(table)),
    'unigram': float(-np.log(table[:, 3]).sum()),
    'position': float(-np.log(table[:, 4]).sum()),
    'mixture': float(-np.log(table @ model.weights).sum()),
  }


def nats_per_line(
  model: Ngrams, grids: Sequence[np.ndarray], start: int = FIRST, stop: int | None = None
) -> dict[str, float]:
  """{'unigram', 'position', 'mixture'}: nats over all grooves by lines over all grooves; 0 where there is no line.

  Source: this library's own.
  """
  sums = [nats(model, grid, start, stop) for grid in grids]
  lines = max(sum(s['lines'] for s in sums), 1.0)
  return {key: sum(s[key] for s in sums) / lines for key in ('unigram', 'position', 'mixture')}


def sounding(grids: Sequence[np.ndarray]) -> list[int]:
  """Numbers of the grooves with at least four measures and a hit in the third and in the fourth."""
  spans = [slice(FIRST, FIRST + STEPS), slice(FIRST + STEPS, FIRST + 2 * STEPS)]
  return [i for i, g in enumerate(grids) if len(g) >= FIRST + 2 * STEPS and all(g[span].any() for span in spans)]


def _normalised(counts: np.ndarray) -> np.ndarray:
  return counts / counts.sum(axis=-1, keepdims=True)
