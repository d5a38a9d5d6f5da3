import numpy as np

from jaxpapers.reliant import data, evaluation, proxy_figures, report
from jaxpapers.reliant.problem import Splits
from jaxpapers.reliant.replicas import Grid, Point
from tests.reliant import toy


class Page:
  """What the report is written on."""

  def __init__(self):
    self.texts, self.tables, self.found = [], [], {}

  def heading(self, text):
    self.texts.append(text)

  text = heading

  def table(self, header, rows, caption=''):
    self.tables.append((header, rows, caption))

  def results(self, **values):
    self.found.update(values)


def test_all_rows_of_the_ablation_stand_side_by_side():
  x, y, s = toy.arrays()
  splits = Splits(np.arange(8), np.arange(8, 12), np.arange(12, toy.NODES))
  loaded = data.Dataset('toy', x, *toy.edges(), y, s, splits, tuple('abcde'), 'Read this.')
  single = Grid(2, [Point('sp', 30.0)], ('sp',))
  grids = dict.fromkeys(('teacher', 'vanilla', 'vanilla_without_columns', 'penalty_only'), single)
  grids['reliant'] = single._replace(points=[Point('sp', 30.0), Point('sp', 120.0)])
  rng = np.random.default_rng(0)
  probabilities = {name: rng.dirichlet([1, 1], (2 * len(grid.points), toy.NODES)) for name, grid in grids.items()}
  probabilities['teacher'][:] = np.eye(2)[y]
  found = {name: evaluation.scores(values, [loaded], grids[name]) for name, values in probabilities.items()}
  page = Page()
  report.comparison(page, found, probabilities, report.Context([loaded], grids, {}, ('d', 'e'), 1, ()))
  header, rows, caption = page.tables[0]
  assert [row[0] for row in rows] == [
    'teacher',
    'vanilla student',
    'vanilla without the replaced columns',
    'penalty only (frozen proxies), SP, alpha 30',
    'RELIANT, SP, alpha 30',
    'RELIANT, SP, alpha 120',
  ]
  assert len(header) == len(rows[0]) and rows[0][1] == '1.0000 ± 0.0000' and rows[0][-1] == 1.0
  assert '2 seeds' in caption
  text = '\n'.join(page.texts)
  vanilla, main = (found[name]['dsp'][0].mean() for name in ('vanilla', 'reliant'))
  for words in ('the columns d and e', 'Read this.', f'from {vanilla:.4f} to {main:.4f}', 'The penalty alone reaches'):
    assert words in text
  assert len(page.found['scores']['RELIANT, SP, alpha 120']['deo']) == 2


def test_the_probe_reads_what_is_there_and_nothing_else():
  rng = np.random.default_rng(0)
  s = rng.integers(0, 2, 400)
  rows = rng.random((400, 2))
  base = max(s.mean(), 1 - s.mean())
  assert abs(proxy_figures.probe(rows, s) - base) < 0.08
  # Whatever the scale.
  assert proxy_figures.probe(1e-3 * (rows + 2.0 * s[:, None]), s) > 0.95
  assert abs(proxy_figures.probe(np.ones((400, 2)), s) - base) < 1e-2
