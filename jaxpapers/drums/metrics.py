"""Duplication, validity and how grooves are made up."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.spatial import distance

from jaxpapers.drums.notation import INSTRUMENTS, STEPS, Parsed, parse, to_text
from jaxpapers.drums.structure import measure_strings, stability_curves, summarise

BACKBEAT = (4, 12)


class Duplication(NamedTuple):
  """Measures with a hit, and how often each occurs among the measures of a reference corpus.

  Attributes:
    measures: their number.
    found: those that occur at least once.
    histogram: {occurrences: measures}.
    completion_measures: `measures` without the first two of every groove.
    completion_found: likewise.
  """

  measures: int
  found: int
  histogram: dict[int, int]
  completion_measures: int
  completion_found: int

  @property
  def share(self) -> float:
    """Of the completion measures, the part that occurs; 0 where there is none."""
    return self.completion_found / max(self.completion_measures, 1)


class Validity(NamedTuple):
  """How many texts are what they should be.

  Attributes:
    texts: their number.
    legal: texts in which every line is legal.
    exact: legal texts of exactly the wanted number of measures.
    lines: steps in all texts.
    repaired: illegal lines in all texts; they were read as `notation.parse` says.
    blank: empty lines, which are no steps.
  """

  texts: int
  legal: int
  exact: int
  lines: int
  repaired: int
  blank: int


def duplication(
  grooves: Sequence[str | np.ndarray], reference: Sequence[str | np.ndarray], prompt_measures: int = 2
) -> Duplication:
  """Exact matches of measures in a reference corpus; silent measures are left out.

  Source: the paper's count of copied measures.

  Args:
    grooves: texts without SEP lines or grids [steps, 6], prompt included; lines behind the last whole measure count as
      a measure.
    reference: grooves of the corpus.
    prompt_measures: that the completion comes after.
  """
  known = Counter(measure for groove in reference for measure in _measures(groove))
  places = [(place, m) for groove in grooves for place, m in enumerate(_measures(groove)) if 'o' in m]
  occurrences = np.array([known[measure] for _, measure in places], np.int64)
  completion = np.array([place >= prompt_measures for place, _ in places], bool)
  return Duplication(
    len(occurrences),
    int(np.sum(occurrences > 0)),
    dict(sorted(Counter(occurrences.tolist()).items())),
    int(completion.sum()),
    int(np.sum(completion & (occurrences > 0))),
  )


def repeat_rate(grooves: Sequence[str | np.ndarray], prompt_measures: int = 2, most: int = 16) -> float:
  """Of the whole completion measures with a hit, the part identical to the measure before; 0 where there is none.

  Source: this library's own.

  Args:
    grooves: texts without SEP lines or grids [steps, 6], prompt included.
    prompt_measures: that the completion comes after, at least 1.
    most: measures of a groove that are looked at.
  """
  same = []
  for groove in grooves:
    measures = _measures(groove, most, drop_incomplete=True)
    pairs = zip(measures[prompt_measures - 1 :], measures[prompt_measures:], strict=False)
    same += [before == measure for before, measure in pairs if 'o' in measure]
  return sum(same) / max(len(same), 1)


def validity(texts: Sequence[str | Parsed], measures: int = 16) -> Validity:
  """Counts legal texts, and those of exactly `measures` measures among them. Source: this library's own."""
  parsed = [text if isinstance(text, Parsed) else parse(text) for text in texts]
  legal = [not (p.repaired or p.blank) for p in parsed]
  return Validity(
    len(parsed),
    sum(legal),
    sum(ok and len(p.grid) == measures * STEPS for ok, p in zip(legal, parsed, strict=True)),
    sum(len(p.grid) for p in parsed),
    sum(p.repaired for p in parsed),
    sum(p.blank for p in parsed),
  )


def composition(grids: Sequence[np.ndarray], human: Sequence[np.ndarray] | None = None) -> Mapping[str, float]:
  """What completions [steps, 6] are made of, and how far they are from human ones. Source: this library's own.

  Returns:
    'silent_lines': part of steps without a hit; 'silent_measures': of whole measures; 'hits_per_line'; 'backbeat': part
    of the snare's places 4 and 12 that are hit, in measures with a hit; with `human` also 'js_instruments' and
    'js_positions': Jensen-Shannon distance (base 2, 0..1) of the hits by instrument, and by instrument and place in the
    measure.
  """
  steps = np.concatenate(grids) if len(grids) else np.zeros((0, len(INSTRUMENTS)), bool)
  whole = _whole_measures(grids)
  sounds = whole.any(axis=(1, 2))
  snare = whole[sounds][:, BACKBEAT, INSTRUMENTS.index('snare')]
  result = {
    'silent_lines': float(np.mean(~steps.any(axis=1))) if len(steps) else 0.0,
    'silent_measures': float(np.mean(~sounds)) if len(sounds) else 0.0,
    'hits_per_line': float(steps.sum() / max(len(steps), 1)),
    'backbeat': float(snare.mean()) if snare.size else 0.0,
  }
  if human is not None:
    other = _whole_measures(human)
    result['js_instruments'] = jensen_shannon(whole.sum(axis=(0, 1)), other.sum(axis=(0, 1)))
    result['js_positions'] = jensen_shannon(whole.sum(axis=0).ravel(), other.sum(axis=0).ravel())
  return result


def describe(
  grooves: Sequence[str | np.ndarray], train: Sequence[str | np.ndarray], human: Sequence[str | np.ndarray]
) -> dict[str, float]:
  """The measured rows of the comparison of corpora, for whole grooves with their prompts.

  Source: the rows of the paper's table, and this library's own.

  Args:
    grooves: texts without SEP lines, or grids [steps, 6].
    train: the training corpus, for duplication.
    human: the grooves that `grooves` continue, likewise.

  Returns:
    'mean_stability', 'values', 'between_centres', 'within_centre'; 'duplicates_train' and 'duplicates_human' as part of
    the completion measures; 'repeats'; 'legal' and 'sixteen_measures' in grooves.
  """
  curves = summarise(stability_curves(grooves))
  valid = validity([groove if isinstance(groove, str) else to_text(groove) for groove in grooves])
  return {
    'mean_stability': curves.mean,
    'values': float(curves.values),
    'between_centres': curves.between,
    'within_centre': curves.within,
    'duplicates_train': duplication(grooves, train).share,
    'duplicates_human': duplication(grooves, human).share,
    'repeats': repeat_rate(grooves),
    'legal': float(valid.legal),
    'sixteen_measures': float(valid.exact),
  }


def jensen_shannon(a: np.ndarray, b: np.ndarray) -> float:
  """Distance (base 2, 0..1) of two vectors of counts; an empty one is as far as can be from any that is not."""
  empty = not np.any(a), not np.any(b)
  if any(empty):
    return float(empty[0] != empty[1])
  # Of equal vectors the square root can be one of a rounding error below zero.
  return float(np.nan_to_num(distance.jensenshannon(a, b, base=2)))


def _whole_measures(grids: Sequence[np.ndarray]) -> np.ndarray:
  """[measures, 16, 6] bool."""
  shape = (-1, STEPS, len(INSTRUMENTS))
  parts = [grid[: len(grid) // STEPS * STEPS].reshape(shape) for grid in grids]
  return np.concatenate(parts) if parts else np.zeros((0, *shape[1:]), bool)


def _measures(groove: str | np.ndarray, most: int | None = None, drop_incomplete: bool = False) -> list[str]:
  """Measures as texts that compare equal whether or not the last line has its newline."""
  return [measure.rstrip('\n') for measure in measure_strings(groove, most, drop_incomplete)]
