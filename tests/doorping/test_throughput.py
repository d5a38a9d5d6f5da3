"""What the measuring commands compute and say; no time is judged."""

import jax
import numpy as np
import pytest

from configs import doorping as doorping_config
from jaxpapers.doorping import benchmarks, dc, model, parts, peers, scaling, throughput, torch_parts, trigger
from jaxpapers.doorping.experiment import experiment
from jaxpapers.engine.errors import UserError
from jaxpapers.engine.measure import Measurement

TINY = parts.Sizes(8, 2, 2, 3, 4, 2, 3, 2, 2, 3)


@pytest.fixture(scope='module')
def calls():
  return parts.ours(TINY)


def test_parts_do_what_they_say(calls):
  assert set(calls) == set(parts.examples(TINY))
  shown = (parts.TRIGGER, parts.CLEANSE, parts.VICTIMS)
  shapes = {name: jax.eval_shape(calls[name]) for name in shown}
  assert shapes[parts.TRIGGER].trigger.shape == (1, 8, 8, 1)
  assert shapes[parts.CLEANSE].mask.shape == (2, 8, 8)
  assert shapes[parts.VICTIMS]['params']['logits']['bias'].shape == (2, 2)


def test_trigger_part_takes_all_its_steps(calls):
  assert calls[parts.TRIGGER]().steps == 3


def test_torch_parts_run():
  pytest.importorskip('torch')
  calls = torch_parts.theirs(TINY)
  for call in calls.values():
    call()
  assert set(calls) < set(parts.examples(TINY))


def test_ratios_compare_ours_with_theirs_and_lanes_with_runs():
  ours = {name: 1.0 + i for i, name in enumerate(parts.examples(TINY))}
  rows = throughput.ratios(ours, throughput.PUBLISHED, 'published')
  found = {what: (value, most) for what, value, most in rows}
  assert found['outer step / published'] == (pytest.approx(1.0 / 0.168), 0.6)
  assert found['victims, one vmap / one victim, ours'] == (pytest.approx(ours[parts.VICTIMS] / ours[parts.VICTIM]), 2.0)
  assert len(rows) == 7
  assert len(throughput.ratios(ours, ours, 'torch')) == 11


def test_rows_and_what_stands_beside_them(monkeypatch, calls):
  def measure(name, step, arguments, examples, repeats):
    jax.eval_shape(step, *arguments)
    return Measurement(name, examples, 1.0)

  monkeypatch.setattr(parts, 'ours', lambda sizes: calls)
  monkeypatch.setattr(torch_parts, 'theirs', lambda sizes, threads: {n: None for n in calls if 'vmap' not in n})
  monkeypatch.setattr(benchmarks, 'measure', measure)
  for module in (benchmarks, peers):
    monkeypatch.setattr(module, 'median_seconds', lambda call, repeats: 2.0)
  rows, lines = benchmarks.programs(1, TINY)
  names = [row.name for row in rows]
  assert names == list(parts.examples(TINY)) and not lines and all(row.examples > 0 for row in rows)
  theirs = peers.PEERS['torch'](None, repeats=1, threads=0)
  assert {row.beside for row in theirs} <= set(names) - {parts.CLEANSE_RUNS}
  own = {row.name: row for row in rows}
  assert own[parts.CLEANSE_RUNS].beside == parts.CLEANSE_EACH and sum(bool(row.beside) for row in rows) == 1
  assert all(row.name == f'torch: {row.beside}' for row in theirs if row.beside != parts.CLEANSE_EACH)
  config = doorping_config.get_config('default')
  config.seeds, config.attacks, config.defences.enabled = 1, ('doorping',), False
  (case,) = benchmarks.CASES
  assert case.overrides == ('seeds=1', "attacks=('doorping',)", 'defences.enabled=False')
  assert set(case.stages) <= {stage.name for stage in experiment(config).stages}


def test_absent_torch_is_named(monkeypatch, capsys):
  monkeypatch.setitem(__import__('sys').modules, 'torch', None)
  with pytest.raises(UserError, match='needs PyTorch'):
    torch_parts.theirs(TINY)
  assert throughput.main(['--peer', 'torch']) == 2
  assert 'needs PyTorch' in capsys.readouterr().err


def test_an_iteration_of_any_number_of_seeds_is_one_program():
  shape = (8, 8, 3)
  recipe = dc.Recipe(10, 2, 1, 4, trigger=trigger.PUBLISHED._replace(max_steps=3), classes_at_once=10)
  net = model.ConvNet(10, 4, 1)
  states, attacks = scaling.lanes(3, shape, 200, 2, 0.1, 2, 3)
  assert attacks.poisoned.sum(1).tolist() == [20] * 3 and attacks.tables.count.sum(1).tolist() == [200] * 3
  run = scaling.program(net, shape, recipe, 2, 0)
  keys = jax.random.split(jax.random.key(0), 3)
  state, metrics = jax.eval_shape(run, states, attacks, keys, np.zeros((200, *shape), np.uint8))
  assert state.images.shape == (3, 20, 8, 8, 3) and metrics['loss'].shape == (3,)
