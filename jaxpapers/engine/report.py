"""The report of a run: index.html, PNG files and results.json."""

import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from jaxpapers.engine.logs import read_metrics

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1d2129; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.6rem; }} h2 {{ font-size: 1.2rem; margin-top: 2rem; }}
figure {{ margin: 1.5rem 0; }} img {{ max-width: 100%; }} figcaption {{ color: #555e6b; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
caption {{ text-align: left; color: #555e6b; padding-bottom: .4rem; }}
th, td {{ padding: .3rem .8rem; border-bottom: 1px solid #d9dde3; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


def _cell(value: Any) -> str:
  if isinstance(value, bool) or value is None:
    return {True: 'yes', False: 'no', None: ''}[value]
  if isinstance(value, int):
    return f'{value:,}'
  return f'{value:.4g}' if isinstance(value, float) else html.escape(str(value))


class Report:
  """Collects figures, tables and text in order, and writes them to `workdir/report`.

  Attributes:
    config: the run's settings.
    metrics: records of metrics.jsonl, oldest first: {'stage', 'step', metric: value}.
    final: {stage: metrics of its last evaluation}.
    folder: where further files may be put.
  """

  def __init__(self, workdir: epath.Path, title: str, config: Any, final: Mapping[str, Mapping[str, float]]):
    """An empty report of the run in `workdir`."""
    self.folder = workdir / 'report'
    self.folder.mkdir(parents=True, exist_ok=True)
    self.config = config
    self.metrics = read_metrics(workdir)
    self.final = {stage: dict(values) for stage, values in final.items()}
    self._title = title
    self._parts: list[str] = []
    self._results: dict[str, Any] = {}

  def heading(self, text: str) -> None:
    """A section heading."""
    self._parts.append(f'<h2>{html.escape(text)}</h2>')

  def text(self, text: str) -> None:
    """A paragraph."""
    self._parts.append(f'<p>{html.escape(text)}</p>')

  def figure(self, name: str, figure: Any, caption: str = '') -> None:
    """Saves a matplotlib figure as `name.png` and shows it."""
    if not re.fullmatch(r'[\w-]+', name):
      raise ValueError(f'A figure is named by letters, digits, _ and -, not {name!r}.')
    with (self.folder / f'{name}.png').open('wb') as file:
      figure.savefig(file, format='png', dpi=120, bbox_inches='tight')
    label = html.escape(caption or name, quote=True)
    self._parts.append(
      f'<figure><img src="{name}.png" alt="{label}"><figcaption>{html.escape(caption)}</figcaption></figure>'
    )

  def table(self, header: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = '') -> None:
    """A table; numbers are rounded for reading, text is escaped."""
    head = ''.join(f'<th>{html.escape(str(name))}</th>' for name in header)
    lines = ''.join('<tr>' + ''.join(f'<td>{_cell(value)}</td>' for value in row) + '</tr>' for row in rows)
    title = f'<caption>{html.escape(caption)}</caption>' if caption else ''
    self._parts.append(f'<table>{title}<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>')

  def results(self, **values: Any) -> None:
    """Adds entries to results.json."""
    self._results.update(values)

  def history(self, stage: str, metric: str) -> tuple[list[int], list[float]]:
    """(steps, values) of a metric of a stage, for curves."""
    pairs = [(r['step'], r[metric]) for r in self.metrics if r['stage'] == stage and metric in r]
    return [step for step, _ in pairs], [value for _, value in pairs]

  def write(self) -> epath.Path:
    """Writes index.html and results.json; returns the path of the page."""
    rows = [[stage, name, value] for stage, values in self.final.items() for name, value in values.items()]
    if rows:
      self.heading('Final metrics')
      self.table(['stage', 'metric', 'value'], rows)
    page = self.folder / 'index.html'
    page.write_text(_PAGE.format(title=html.escape(self._title), body='\n'.join(self._parts)))
    results = {'final': self.final, **self._results}
    (self.folder / 'results.json').write_text(json.dumps(_finite(results), indent=2, sort_keys=True) + '\n')
    return page


def _finite(value: Any) -> Any:
  """JSON has no NaN: null instead; numpy scalars become Python numbers."""
  if isinstance(value, Mapping):
    return {str(k): _finite(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [_finite(v) for v in value]
  if hasattr(value, 'tolist'):
    return _finite(value.tolist())
  return None if isinstance(value, float) and not math.isfinite(value) else value
