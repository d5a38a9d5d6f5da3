"""Claims of papers as data, and what finished runs say about them. Knows no paper."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

HOLDS = 'holds'
FAILS = 'does not hold'
UNCHECKED = 'not checkable here'


@dataclasses.dataclass(frozen=True)
class Run:
  """Settings that a claim is measured under; claims with equal runs share them.

  Attributes:
    variant: of the room's config.
    overrides: 'key=value' without the leading 'config.'.
    seeded: whether another `config.seed` gives another measurement; one run is enough where not.
  """

  variant: str = 'default'
  overrides: tuple[str, ...] = ()
  seeded: bool = True

  @property
  def name(self) -> str:
    """A folder's name."""
    return re.sub(r'[^\w.=-]+', '_', '-'.join((self.variant, *self.overrides)))


class Above(NamedTuple):
  """The measure lies above `bound`."""

  bound: float

  def interval_holds(self, low: float, high: float) -> bool:
    """Whether all of [low, high] does."""
    return low > self.bound

  def __str__(self) -> str:
    """The condition in signs."""
    return f'> {self.bound:g}'


class Below(NamedTuple):
  """The measure lies below `bound`."""

  bound: float

  def interval_holds(self, low: float, high: float) -> bool:
    """Whether all of [low, high] does."""
    return high < self.bound

  def __str__(self) -> str:
    """The condition in signs."""
    return f'< {self.bound:g}'


class Between(NamedTuple):
  """The measure lies between two bounds, as one does that is to be almost nothing."""

  low: float
  high: float

  def interval_holds(self, low: float, high: float) -> bool:
    """Whether all of [low, high] does."""
    return self.low < low and high < self.high

  def __str__(self) -> str:
    """The condition in signs."""
    return f'between {self.low:g} and {self.high:g}'


@dataclasses.dataclass(frozen=True)
class Claim:
  """Something that a paper says, and how this library checks it.

  Attributes:
    name: short, unique in its room.
    sentence: what is claimed, in this library's words.
    source: where in the paper, or what it follows from.
    measure: results.json of a finished run -> a number, or one per seed that trains inside the run.
    condition: what the 95 % interval of the measure has to satisfy; where there is one number only, that number.
    unit: of the measure, or what it is a difference or ratio of.
    run: settings; None where no run here can check it.
    paper: the paper's figure for the measure, or None where it gives none that compares.
    picture: name of a figure of the run's report, without '.png', or ''.
    data: a file under DATA_DIR/<slug>/ that the run reads, or ''.
    needs: why it cannot be checked, where `run` is None or the file is absent.
  """

  name: str
  sentence: str
  source: str
  measure: Callable[[Mapping[str, Any]], float | Sequence[float]] | None
  condition: Above | Below | Between
  unit: str
  run: Run | None = Run()
  paper: float | None = None
  picture: str = ''
  data: str = ''
  needs: str = ''

  def __post_init__(self):
    """Refuses what could be neither measured nor explained."""
    if (self.run is None) != (self.measure is None):
      raise ValueError(f'{self.name}: a claim has both a run and a measure, or neither.')
    if (self.run is None or self.data) and not self.needs:
      raise ValueError(f'{self.name}: say what it needs to be checked.')


class Judgement(NamedTuple):
  """What was found.

  Attributes:
    verdict: HOLDS, FAILS or UNCHECKED.
    why: in words, for UNCHECKED and for an interval that has the bound inside; else ''.
    values: one per independent measurement.
    mean: of the values; None without any.
    low: lower end of the 95 % t interval of the mean; None for fewer than two values.
    high: upper end.
  """

  verdict: str
  why: str = ''
  values: tuple[float, ...] = ()
  mean: float | None = None
  low: float | None = None
  high: float | None = None


def interval(values: Sequence[float]) -> tuple[float, float]:
  """95 % t interval of the mean of two or more independent values; it has no width where all are equal."""
  half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
  return float(np.mean(values) - half), float(np.mean(values) + half)


def unchecked(why: str) -> Judgement:
  """A judgement without numbers."""
  return Judgement(UNCHECKED, why)


def judge(claim: Claim, results: Sequence[Mapping[str, Any]]) -> Judgement:
  """Measures a claim in finished runs that differ in their seed alone.

  Seeds inside a run may share data, so each run counts as one measurement; only of a single run the seeds inside count.

  Args:
    claim: one with a run.
    results: results.json of every finished run.
  """
  if claim.measure is None:
    return unchecked(claim.needs)
  if not results:
    return unchecked('no run was finished')
  try:
    measured = [np.atleast_1d(np.asarray(claim.measure(r), np.float64)) for r in results]
  except (LookupError, TypeError, ZeroDivisionError) as error:
    return unchecked(f'the report of {claim.run.name} lacks a number ({type(error).__name__}: {error})')
  if any(not m.size or not np.isfinite(m).all() for m in measured):
    return unchecked(f'{claim.run.name} measured a number that is not finite')
  values = tuple(float(m.mean()) for m in measured) if len(measured) > 1 else tuple(map(float, measured[0]))
  mean = float(np.mean(values))
  if len(values) == 1:
    if claim.run.seeded:
      return Judgement(UNCHECKED, 'one seed gives no interval', values, mean)
    return Judgement(HOLDS if claim.condition.interval_holds(mean, mean) else FAILS, '', values, mean)
  low, high = interval(values)
  if claim.condition.interval_holds(low, high):
    return Judgement(HOLDS, '', values, mean, low, high)
  why = 'the mean satisfies the condition, its interval does not' if claim.condition.interval_holds(mean, mean) else ''
  return Judgement(FAILS, why, values, mean, low, high)
