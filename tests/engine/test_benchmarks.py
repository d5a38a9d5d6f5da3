"""Rows, ratios and tables of the benchmark, and the cases that rooms declare."""

import importlib
import json
import types
from pathlib import Path

import jax.numpy as jnp
import pytest

from jaxpapers.engine import benchmarks
from jaxpapers.engine.benchmarks import Result
from jaxpapers.engine.config import flatten
from jaxpapers.engine.errors import UserError
from jaxpapers.engine.experiment import Evaluation, Experiment, Stage
from jaxpapers.engine.measure import Measurement, measure
from tests.launch.program import call

ROOT = Path(__file__).parent.parent.parent
ROOMS = sorted(path.stem for path in (ROOT / 'configs').glob('*.py') if (ROOT / 'jaxpapers' / path.stem).is_dir())
OURS = Measurement('net train', 8, 0.5, 1.25, 2e9, 3 * 2**20, 4e9)
OTHER = Measurement('torch net', 4, 1.0, beside='net train')
RESULT = Result('room', 'default', '1 x chip', {'float32': 1e10}, 1e10, [OURS, OTHER], ['a is faster'], ['no torch.'])


def linear_experiment():
  data = jnp.ones((6, 3))

  def stage(name):
    return Stage(
      name,
      1,
      lambda step: {'x': data},
      lambda key, batch, states: jnp.zeros(3),
      lambda state, batch, key: (state + batch['x'].sum(0), {}),
      [Evaluation('test', lambda: [{'x': data[:2]}], lambda state, batch: batch['x'] @ state, lambda outputs: {})],
    )

  return Experiment([stage('first'), stage('second')], lambda states, report: None)


def test_stages_are_timed_by_name():
  rows = benchmarks.stage_rows(linear_experiment(), 0, 1, ['second'])
  assert [(row.name, row.examples) for row in rows] == [('second train', 6), ('second test', 2)]
  assert rows[1].flops == 2 * 2 * 3 and all(row.seconds > 0 and row.traffic > 0 for row in rows)
  assert len(benchmarks.stage_rows(linear_experiment(), 0, 1)) == 4
  with pytest.raises(UserError, match="'secnd'.*second"):
    benchmarks.stage_rows(linear_experiment(), 0, 1, ['secnd'])


def test_ratio_is_of_seconds_per_example():
  [(own, other, ratio)] = benchmarks.ratios(RESULT.rows)
  assert (own, other, ratio) == (OURS, OTHER, 4.0)
  assert not list(benchmarks.ratios([OTHER]))


def test_tables_have_shares_ratios_and_what_is_missing():
  text = benchmarks.as_markdown([RESULT], {'cores': '2'}, ['other failed'])
  assert '| room | net train | 1.2 | 500.0 | 16 | 2.00 | 3 | 40.0% | 80% |' in text
  assert '| room | net train | torch net | 16 | 4.00 | 4.00 x |' in text
  assert text.count('torch net') == 1
  assert '* room: a is faster.' in text and '* room: no torch.' in text and '* other failed' in text
  assert any('4.00 x as fast as torch net' in line for line in benchmarks.as_text(RESULT))


def test_result_survives_json():
  made = measure('sum', jnp.sum, (jnp.ones(4),), 4, 1, beside='net train')
  result = RESULT._replace(rows=[*RESULT.rows, made])
  assert Result.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_peers_that_are_missing_are_told_of(monkeypatch):
  def absent(config, **options):
    raise UserError('--peer=absent needs it.')

  module = types.SimpleNamespace(PEERS={'absent': absent, 'loop': lambda config, repeats, threads: [OTHER]})
  monkeypatch.setattr(benchmarks.importlib, 'import_module', lambda name: module)
  config = types.SimpleNamespace(method='emo')
  assert benchmarks.peers(config, 'all', 1, 1) == ([OTHER], ['--peer=absent needs it.'])
  assert benchmarks.peers(config, '', 1, 1) == ([], [])
  with pytest.raises(UserError, match='needs it'):
    benchmarks.peers(config, 'absent', 1, 1)
  with pytest.raises(UserError, match='lop.*loop'):
    benchmarks.peers(config, 'lop', 1, 1)


@pytest.mark.parametrize('room', ROOMS)
def test_every_room_has_cases_that_its_config_knows(room):
  assert benchmarks.cases(room)
  for case in benchmarks.cases(room):
    config = importlib.import_module(f'configs.{room}').get_config(case.variant)
    assert {override.split('=')[0] for override in case.overrides} <= set(flatten(config))
    assert case.dtypes[0] == 'float32'


def test_all_methods_make_one_table_and_failures_are_named(tmp_path, monkeypatch):
  import subprocess

  started = []

  def run(arguments, **options):
    started.append(arguments)
    slug = Path(next(a for a in arguments if a.startswith('--config=')).split('=')[1].split(':')[0]).stem
    target = next(a for a in arguments if a.startswith('--json=')).removeprefix('--json=')
    if slug == 'emo':
      Path(target).write_text(json.dumps(RESULT._replace(method=slug).to_json()))
    return types.SimpleNamespace(returncode=0 if slug == 'emo' else 3)

  monkeypatch.setattr(subprocess, 'run', run)
  call('benchmark', all=True, only=['emo'], out=str(tmp_path), threads=1)
  assert '--peer=all' in started[0] and '--threads=1' in started[0] and '--programs=True' in started[0]
  text = (tmp_path / 'benchmark.md').read_text()
  assert 'cores 1' in text and 'devices 1 x chip' in text and str(tmp_path) not in text
  with pytest.raises(UserError, match='xdeepint.*exit code 3'):
    call('benchmark', all=True, only=['emo', 'xdeepint'], out=str(tmp_path))
  assert 'exit code 3' in (tmp_path / 'benchmark.md').read_text()
  with pytest.raises(UserError, match='emoo.*emo'):
    call('benchmark', all=True, only=['emoo'], out=str(tmp_path))


def test_peaks_are_positive():
  from jaxpapers.engine import measure as measuring

  assert measuring.bandwidth_peak(2**12, 1) > 0 and measuring.matmul_peak(size=16, repeats=1) > 0
