"""Tables and pictures of a run: what the attacks did to victims, and whether any of it fits in an image file."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxpapers.doorping import defence_report, figures
from jaxpapers.doorping.defence import Outcome
from jaxpapers.doorping.distilling import History
from jaxpapers.doorping.lanes import CLEAN, Lane
from jaxpapers.doorping.rates import REAL, Rates, excess, interval
from jaxpapers.engine.logs import say

TITLES = {
  CLEAN: 'clean',
  'naive': 'NAIVEATTACK',
  'doorping': 'DOORPING',
  'doorping_clipped': 'DOORPING, kept in the pixel range',
  REAL: 'clean real images, not distilled',
}
# An effect below it is none that an attacker could use, however narrow its interval.
SMALLEST = 0.05


class Context(NamedTuple):
  """What the pictures need.

  Attributes:
    lanes: see Lane.
    rates: see rates.rates.
    images: distilled sets [lanes, classes, images per class, height, width, channels], normalised.
    history: see History; numpy.
    target: the attacked label.
    mean: [channels] of the normalisation.
    std: [channels].
    defences: {defence: {attack: Outcome}}; {} where none ran.
    copied: {attack: share of the target's distilled images that started as copies of stamped ones}; {} where the sets
      did not start from what the attacker has.
  """

  lanes: Sequence[Lane]
  rates: Rates
  images: np.ndarray
  history: History
  target: int
  mean: np.ndarray
  std: np.ndarray
  defences: Mapping[str, Mapping[str, Outcome]]
  copied: Mapping[str, float]

  @property
  def first(self) -> dict[str, int]:
    """{attack: lane of its first seed}, in the order of the lanes."""
    return {lane.attack: index for index, lane in enumerate(self.lanes) if lane.seed == 0}


def draw(page: Any, context: Context) -> None:
  """Everything."""
  attack_table(page, context)
  answer(page, context)
  first = {TITLES[name]: index for name, index in context.first.items()}
  pixels = np.clip(context.images * context.std + context.mean, 0.0, 1.0)
  figures.bars(page, {TITLES[name]: row for name, row in context.rates.items() if name != REAL})
  figures.curves(page, {name: TITLES[name] for name in context.first})
  page.heading('Distilled images and triggers')
  figures.grids(page, {title: pixels[index] for title, index in first.items()}, context.target)
  moving = {title: context.history.patch[index] for title, index in first.items() if title.startswith('DOORPING')}
  if moving:
    figures.trigger_paths(page, moving, context.mean, context.std)
  figures.distances(page, first, context.history)
  if context.defences:
    defence_report.draw(page, {d: _titled(row) for d, row in context.defences.items()}, context.target)


def _titled(row: Mapping[str, Any]) -> dict[str, Any]:
  return {TITLES[name]: value for name, value in row.items()}


_COLUMNS = (
  ('CTA', 'cta'),
  ('target without trigger', 'clean_as_target'),
  ('ASR', 'asr_raw'),
  ('ASR clipped', 'asr_clipped'),
  ('ASR uint8', 'asr_uint8'),
  ('ASR non-target', 'asr_nontarget_raw'),
  ('ASR non-target uint8', 'asr_nontarget_uint8'),
  ('control: clean distilled set', 'control_clean_raw'),
  ('same, uint8', 'control_clean_uint8'),
  ('control: clean real images', 'control_real_raw'),
  ('same, uint8', 'control_real_uint8'),
)
_SAID = ('cta', 'asr_raw', 'asr_clipped', 'asr_uint8', 'control_clean_raw', 'control_clean_uint8')


def attack_table(page: Any, context: Context) -> None:
  """One row per attack, on the page and, with the most asked for, at the terminal."""
  page.heading('Attacks')
  seeds, count = next(iter(context.rates.values()))['cta'].shape
  rows = []
  for attack, row in context.rates.items():
    cells = {name: str(interval(row[name])) if name in row else '-' for _, name in _COLUMNS}
    rows.append([TITLES[attack], *cells.values()])
    titles = {name: title for title, name in _COLUMNS} | {'control_clean_uint8': 'control uint8'}
    titles['control_clean_raw'] = 'control'
    say(f'{TITLES[attack]}: ' + '  '.join(f'{titles[name]} {cells[name]}' for name in _SAID if name in row))
  unit = f'{seeds} seeds' if seeds > 1 else 'the victims of one seed'
  page.table(
    ['attack', *(title for title, _ in _COLUMNS)],
    rows,
    f'Means with 95% intervals over {unit}; {count} victims per distilled set. ASR: share of all stamped test images '
    'predicted as the target, with the trigger as it is, clipped to the pixel range, and rounded to uint8. Controls: '
    'the same trigger on victims that never saw the attack. The clean row carries the white patch of NAIVEATTACK.',
  )
  page.results(rates=context.rates)


def answer(page: Any, context: Context) -> None:
  """Whether a trigger survives distillation, as it is and as an image file holds it, in a table and in sentences."""
  page.heading('Does a trigger that fits in an image file survive distillation?')
  rows, said, stored = [], [], {}
  for attack, row in context.rates.items():
    if attack in (CLEAN, REAL):
      continue
    patch = context.history.patch[[lane.attack == attack for lane in context.lanes]][:, -1]
    away = float(figures.outside(patch, context.mean, context.std).max())
    against = 'control_clean' if 'control_clean_nontarget_raw' in row else 'control_real'
    found = {form: excess(row, against, form) for form in ('raw', 'uint8')}
    stored[attack] = {'outside_pixel_range': away, **{form: value._asdict() for form, value in found.items()}}
    rows.append([TITLES[attack], away, *(str(value) for value in found.values()), _verdict(found['uint8'])])
    said.append(f'{TITLES[attack]}: {_sentence(found, away)}')
  page.table(
    ['attack', 'trigger outside the pixel range', 'excess ASR, raw', 'excess ASR, uint8', 'survives in a file'],
    rows,
    'Excess: ASR on non-target images less that of the control (the same trigger on victims of clean sets of the same '
    'seed), with 95% intervals; distance in normalised units.',
  )
  for sentence in said:
    page.text(sentence)
    say(sentence)
  if context.copied:
    shares = ', '.join(f'{TITLES[attack]} {share:.0%}' for attack, share in context.copied.items())
    page.text(
      'The distilled sets started as copies of real images as the attacker has them. Of the target class, these '
      f'carried the first trigger from the start: {shares}. What survives in a file may be these copies: '
      '--config.distill.start=clean starts from images without trigger.'
    )
  page.results(excess=stored, copied=dict(context.copied))


def _verdict(value: Any) -> str:
  if value.low > 0.0 and value.mean >= SMALLEST:
    return 'yes'
  return 'not shown' if np.isnan(value.low) or value.high >= SMALLEST else 'no'


def _sentence(found: Mapping[str, Any], away: float) -> str:
  where = f'up to {away:.3g} normalised units outside the pixel range' if away > 0 else 'inside the pixel range'
  raw, rounded = found['raw'], found['uint8']
  ends = {
    'yes': 'a trigger that fits in an image file survives',
    'no': 'nothing survives that fits in an image file',
    'not shown': 'that anything survives that fits in an image file is not shown',
  }
  return (
    f'the trigger ends {where}; it adds {raw.mean:+.3f} to the control as it is and {rounded.mean:+.3f} as uint8: '
    f'{ends[_verdict(rounded)]}.'
  )
