"""The loops that the benchmark compares with train and play the same learner."""

import jax
import numpy as np
import pytest

from configs import r2rise as config_module
from jaxpapers.engine import UserError
from jaxpapers.r2rise import benchmarks, peers
from jaxpapers.r2rise.experiment import experiment


@pytest.fixture(scope='module')
def task():
  config = config_module.get_config('test')
  made = peers.make_task(config)
  assert made.weights.shape == (2, 12) and set(np.unique(made.weights)) <= {0.0, 1.0}
  # With all frames and no random action every learner passes all three forks.
  return made._replace(weights=np.ones_like(made.weights), epsilon=0.0)


def test_a_program_a_mask_passes_all_forks(task):
  assert [float(x) for x in peers.one_by_one(task)()] == [3.0, 3.0]


@pytest.mark.parametrize('sampling', ['full', 'iid'])
def test_python_loops_pass_all_forks(task, sampling):
  options = task.options.copy_and_resolve_references()
  options.update({'sampling': sampling, 'batch': 16, 'steps': 20})
  assert peers.python_loop(task._replace(options=options))() == [3.0, 3.0]


def test_masked_frames_are_not_learned(task):
  only_fillers = np.asarray(task.weights) * (np.arange(12) % 2 == 1)
  half = task._replace(weights=only_fillers.astype(np.float32))
  expected = jax.device_get(peers.one_by_one(half)())
  assert max(map(float, expected)) < 3.0 and max(peers.python_loop(half)()) < 3.0


def test_torch_loops_pass_all_forks(task):
  pytest.importorskip('torch', reason='PyTorch is not installed')
  assert peers.torch_loop(task, 1)() == [3.0, 3.0]


def test_without_torch_the_extra_is_named(task, monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'torch', None)
  with pytest.raises(UserError, match='pip install'):
    peers.torch_loop(task, 1)


def test_loops_stand_beside_the_stage_that_the_case_times(monkeypatch):
  config = config_module.get_config('default')
  config.learners = ('bc',)
  config.bc.chunk = 64
  (case,) = benchmarks.CASES
  assert case.overrides == ("learners=('bc',)", 'bc.chunk=64')
  timed = [stage for stage in experiment(config).stages if stage.name in case.stages]
  assert [len(jax.tree.leaves(stage.batch(0))[0]) for stage in timed] == [64], 'a row counts masks'
  monkeypatch.setattr(peers, 'median_seconds', lambda call, repeats: 1.0)
  monkeypatch.setattr(peers, 'torch_loop', lambda task, threads: None)
  rows = [row for peer in peers.PEERS.values() for row in peer(config, repeats=1, threads=1)]
  assert len(rows) == 3 and {row.beside for row in rows} == {f'{stage.name} train' for stage in timed}
