"""Tables and pictures of a run: what the attacks did to victims, and the question whether any of it fits in a file."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxpapers.doorping.data import Images
from jaxpapers.doorping.lanes import Lane
from jaxpapers.doorping.rates import Rates, interval
from jaxpapers.engine.logs import say


class Context(NamedTuple):
  """What the pictures need.

  Attributes:
    lanes: see Lane.
    rates: see rates.rates.
    images: the dataset.
    states: of the stages.
  """

  lanes: Sequence[Lane]
  rates: Rates
  images: Images
  states: Mapping[str, Any]


def draw(page: Any, context: Context) -> None:
  """Everything."""
  attack_table(page, context)


_COLUMNS = (
  ('CTA', 'cta'),
  ('target without trigger', 'clean_as_target'),
  ('ASR raw', 'asr_raw'),
  ('ASR clipped', 'asr_clipped'),
  ('ASR uint8', 'asr_uint8'),
  ('ASR non-target raw', 'asr_nontarget_raw'),
  ('ASR non-target uint8', 'asr_nontarget_uint8'),
  ('control clean raw', 'control_clean_raw'),
  ('control clean uint8', 'control_clean_uint8'),
  ('control real raw', 'control_real_raw'),
  ('control real uint8', 'control_real_uint8'),
)


def attack_table(page: Any, context: Context) -> None:
  """One row per attack, on the page and at the terminal."""
  page.heading('Attacks')
  rows = []
  for attack, row in context.rates.items():
    cells = [str(interval(row[name])) if name in row else '-' for _, name in _COLUMNS]
    rows.append([attack, *cells])
    say(f'{attack}: ' + '  '.join(f'{t} {c}' for (t, _), c in zip(_COLUMNS, cells, strict=True) if c != '-'))
  page.table(['attack', *(title for title, _ in _COLUMNS)], rows, 'x')
  page.results(rates=context.rates)
