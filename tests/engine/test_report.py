"""The report's files, and metrics that survive a cut."""

import json

import numpy as np
import pytest
from etils import epath
from matplotlib.figure import Figure

from jaxpapers.engine.logs import MetricsLog, read_metrics
from jaxpapers.engine.prefetch import prefetch
from jaxpapers.engine.report import Report


def test_page_holds_everything_in_order_and_escapes(tmp_path):
  report = Report(epath.Path(tmp_path), 'a <b>', None, {'stage': {'test/top1': 0.5, 'test/none': float('nan')}})
  report.heading('First & last')
  report.table(['name', 'value'], [['x<y', 1234567], ['z', 0.123456]])
  report.figure('curve', Figure(), 'a caption')
  report.results(numbers=np.arange(3), broken=float('inf'))
  page = report.write().read_text()
  assert page.index('First &amp; last') < page.index('x&lt;y') < page.index('curve.png') < page.index('test/top1')
  assert '1,234,567' in page and '0.1235' in page and (tmp_path / 'report' / 'curve.png').stat().st_size > 100
  results = json.loads((tmp_path / 'report' / 'results.json').read_text())
  assert (
    results['numbers'] == [0, 1, 2] and results['broken'] is None and results['final']['stage']['test/none'] is None
  )
  with pytest.raises(ValueError, match='named by letters'):
    report.figure('../x', Figure())


def test_resumed_log_drops_what_comes_again_and_a_cut_line(tmp_path):
  path = epath.Path(tmp_path)
  log = MetricsLog(path)
  for step in (1, 2, 3):
    log.write('first', step, 0, {'loss': step / 2})
  with (path / 'metrics.jsonl').open('a') as file:
    file.write('{"stage": "first", "st')
  log.resume('first', 2, 0)
  log.write('second', 1, 3, {'loss': 0.0})
  log.close()
  assert [(r['stage'], r['step']) for r in read_metrics(path)] == [('first', 1), ('first', 2), ('second', 1)]
  assert list((tmp_path / 'tensorboard').iterdir())


def test_prefetch_keeps_order_and_hands_errors_on():
  def numbers():
    yield from range(5)
    raise OSError('the disk is gone')

  got = []
  with pytest.raises(OSError, match='the disk is gone'):
    for item in prefetch(numbers, 2):
      got.append(item)
  assert got == list(range(5))
