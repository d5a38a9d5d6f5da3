"""The scoreboard as JSON, Markdown and one static page. Pure: rows in, text out."""

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxpapers.engine.claims import FAILS, HOLDS, UNCHECKED, Claim, Judgement

_COLOURS = {HOLDS: '#1a7f37', FAILS: '#b42318', UNCHECKED: '#6b7280'}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Scoreboard</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1d2129; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }}
h2 {{ margin-top: 2.5rem; border-bottom: 1px solid #d9dde3; }} article {{ margin: 1.5rem 0; }}
.verdict {{ color: #fff; padding: .1rem .6rem; border-radius: .3rem; font-size: .85rem; }}
p {{ margin: .3rem 0; }} .small {{ color: #555e6b; font-size: .9rem; }} img {{ max-width: 100%; max-height: 24rem; }}
</style></head><body>
<h1>Scoreboard</h1>
{body}
</body></html>
"""


class Row(NamedTuple):
  """A line of the scoreboard.

  Attributes:
    slug: the room.
    claim: what is claimed.
    judgement: what was found.
    seconds: that its runs took, shared with the room's claims of the same run; None without runs.
    picture: path of a picture relative to the page, or ''.
  """

  slug: str
  claim: Claim
  judgement: Judgement
  seconds: float | None = None
  picture: str = ''


def counts(rows: Sequence[Row]) -> str:
  """'3 hold, 1 does not, 2 not checkable here'."""
  number = {verdict: sum(row.judgement.verdict == verdict for row in rows) for verdict in _COLOURS}
  return f'{number[HOLDS]} hold, {number[FAILS]} do not, {number[UNCHECKED]} not checkable here'


def as_json(rows: Sequence[Row], machine: Mapping[str, str]) -> str:
  """The whole scoreboard for programs."""
  entries: list[dict[str, Any]] = [
    {
      'method': row.slug,
      'name': row.claim.name,
      'sentence': row.claim.sentence,
      'source': row.claim.source,
      'run': None if row.claim.run is None else row.claim.run.name,
      'unit': row.claim.unit,
      'condition': str(row.claim.condition),
      'paper': row.claim.paper,
      'seconds': row.seconds,
      'picture': row.picture,
      **row.judgement._asdict(),
    }
    for row in rows
  ]
  return json.dumps({'machine': dict(machine), 'claims': entries}, indent=2, allow_nan=False) + '\n'


def as_markdown(rows: Sequence[Row], machine: Mapping[str, str]) -> str:
  """Tables by method, the reasons below each."""
  lines = ['# Scoreboard', '', f'{counts(rows)}. {_described(machine)}', '', _RULE, '']
  for slug in dict.fromkeys(row.slug for row in rows):
    mine = [row for row in rows if row.slug == slug]
    lines += [
      f'## {slug}',
      '',
      '| claim | measured | condition | paper | verdict | runs |',
      '|---|---|---|---|---|---|',
    ]
    for row in mine:
      cells = (
        row.claim.sentence,
        measured(row),
        str(row.claim.condition),
        _paper(row.claim),
        row.judgement.verdict,
        _time(row),
      )
      lines.append('| ' + ' | '.join(cell.replace('|', '\\|') for cell in cells) + ' |')
    reasons = [f'* {row.claim.name}: {row.judgement.why}.' for row in mine if row.judgement.why]
    lines += ['', *reasons, *([''] if reasons else [])]
  return '\n'.join(lines).rstrip() + '\n'


def as_page(rows: Sequence[Row], machine: Mapping[str, str]) -> str:
  """One page with a picture for every claim that has one."""
  parts = [f'<p>{html.escape(counts(rows))}. {html.escape(_described(machine))}</p>', f'<p>{html.escape(_RULE)}</p>']
  for slug in dict.fromkeys(row.slug for row in rows):
    parts.append(f'<h2>{html.escape(slug)}</h2>')
    parts += [_article(row) for row in rows if row.slug == slug]
  return _PAGE.format(body='\n'.join(parts))


def measured(row: Row) -> str:
  """Mean and interval with the unit, or a dash."""
  found = row.judgement
  if found.mean is None:
    return '-'
  around = '' if found.low is None else f' [{found.low:.3g}, {found.high:.3g}]'
  return f'{found.mean:.3g}{around} {row.claim.unit}'


_RULE = (
  'A claim holds where the whole 95 % t interval of its measure over the seeds satisfies the condition. Bounds and '
  'sentences are this library’s; the data are small stand-ins unless a line says otherwise. Claims that are measured '
  'in the same runs share their time.'
)


def _described(machine: Mapping[str, str]) -> str:
  return '; '.join(f'{key} {value}' for key, value in machine.items()) + '.'


def _time(row: Row) -> str:
  return f'{row.seconds:.0f} s' if row.seconds else '-'


def _paper(claim: Claim) -> str:
  return '-' if claim.paper is None else f'{claim.paper:g}'


def _article(row: Row) -> str:
  claim, found = row.claim, row.judgement
  why = f' · {html.escape(found.why)}' if found.why else ''
  time = f' · runs took {_time(row)}' if row.seconds else ''
  paper = '' if claim.paper is None else f' · paper: {claim.paper:g}'
  image = f'<img src="{html.escape(row.picture, quote=True)}" alt="{html.escape(claim.name)}">' if row.picture else ''
  return (
    f'<article><p><span class="verdict" style="background:{_COLOURS[found.verdict]}">{found.verdict}</span> '
    f'<b>{html.escape(claim.sentence)}</b></p>'
    f'<p>{html.escape(measured(row))} (condition: {html.escape(str(claim.condition))}){paper}{why}</p>'
    f'<p class="small">{html.escape(claim.source)}{time}</p>{image}</article>'
  )
