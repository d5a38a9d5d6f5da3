"""Rates of a run per attack, seed and victim, and their means with intervals."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

from jaxpapers.doorping import victims
from jaxpapers.doorping.lanes import Lane
from jaxpapers.doorping.victim_lanes import CONTROL_CLEAN, CONTROL_REAL, FORMS, OWN, Pairs

REAL = 'real images'
Rates = Mapping[str, Mapping[str, np.ndarray]]


class Interval(NamedTuple):
  """Mean with the ends of its interval."""

  mean: float
  low: float
  high: float

  def __str__(self) -> str:
    """`mean [low, high]`, or the mean alone where there is no interval."""
    return f'{self.mean:.3f}' + ('' if np.isnan(self.low) else f' [{self.low:.3f}, {self.high:.3f}]')


def interval(values: np.ndarray, bounds: tuple[float, float] = (0.0, 1.0), confidence: float = 0.95) -> Interval:
  """Mean of rates and Student's interval over seeds, or over the victims of a single seed.

  Args:
    values: [seeds, victims]; victims of one seed share a distilled set, so that only seeds are independent.
    bounds: that the ends are kept in.
    confidence: of the interval.

  Returns:
    Interval; without a second seed or victim its ends are NaN.
  """
  values = np.asarray(values, np.float64)
  units = values.mean(1) if len(values) > 1 else values[0]
  mean = float(values.mean())
  if len(units) < 2:
    return Interval(mean, float('nan'), float('nan'))
  half = scipy.stats.t.ppf(0.5 + confidence / 2, len(units) - 1) * units.std(ddof=1) / np.sqrt(len(units))
  return Interval(mean, float(max(mean - half, bounds[0])), float(min(mean + half, bounds[1])))


def excess(row: Mapping[str, np.ndarray], control: str, form: str) -> Interval:
  """Success on non-target images less that of a control, seed by seed.

  Args:
    row: of `rates`.
    control: 'control_clean' or 'control_real'.
    form: one of FORMS.
  """
  return interval(row[f'asr_nontarget_{form}'] - row[f'{control}_nontarget_{form}'], (-1.0, 1.0))


def rates(
  without: np.ndarray, triggered: np.ndarray, labels: np.ndarray, lanes: Sequence[Lane], table: Pairs, target: int
) -> dict[str, dict[str, np.ndarray]]:
  """Everything that is measured.

  Args:
    without: predictions [sets, victims, images] on clean test images; sets are the lanes, and real images by seed if
      there were such victims.
    triggered: predictions [pairs, FORMS, images] on stamped ones.
    labels: [images].
    lanes: see Lane.
    table: which trigger met which victim.
    target: the attacked label.

  Returns:
    {attack: {name: [seeds, victims]}} with `cta`, `clean_as_target`, and for every form of the trigger (raw, clipped,
    uint8) `asr_FORM`, `asr_nontarget_FORM`, `control_clean_FORM` and `control_real_FORM` (the same trigger on victims
    of clean distilled and of clean real images); REAL has the first two.

  Raises:
    ValueError: for an empty test set, or one of the target class alone.
  """
  seeds, count = 1 + max(lane.seed for lane in lanes), without.shape[1]
  cta = victims.accuracy(without, labels)
  found: dict[str, dict[str, np.ndarray]] = {}
  names = list(dict.fromkeys(lane.attack for lane in lanes)) + [REAL] * (len(without) > len(lanes))
  for place, name in enumerate(names):
    sets = slice(place * seeds, (place + 1) * seeds)
    own = without[sets]
    idle = victims.attack_rates(own, own, labels, target)
    row = {'cta': cta[sets], 'clean_as_target': idle['clean_as_target']}
    mine = np.asarray([name != REAL and lanes[index].attack == name for index in table.lane])
    for role, key in ((OWN, 'asr'), (CONTROL_CLEAN, 'control_clean'), (CONTROL_REAL, 'control_real')):
      chosen = triggered[mine & (table.role == role)]
      if not len(chosen):
        continue
      for form, values in zip(FORMS, np.moveaxis(chosen, 1, 0), strict=True):
        shown = values.reshape(seeds, count, -1)
        result = victims.attack_rates(own, shown, labels, target)
        row[f'{key}_{form}'] = result['asr']
        row[f'{key}_nontarget_{form}'] = result['asr_nontarget']
    found[name] = row
  return found
