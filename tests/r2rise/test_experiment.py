"""The whole program: settings, devices, interruption, logs, and the report's numbers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from configs import r2rise as config_module
from jaxpapers import r2rise
from jaxpapers.engine import UserError
from jaxpapers.r2rise import experiment, summary

ROOT = Path(__file__).resolve().parents[2]
BC_ONLY = "--config.learners=('bc',)"


def start(workdir, *arguments, devices=1):
  flags = f'--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0'
  env = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags}
  command = [sys.executable, 'launch/train.py', '--config=configs/r2rise.py:test', f'--workdir={workdir}', *arguments]
  return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def finish(process, code=0):
  output, _ = process.communicate(timeout=300)
  assert process.returncode == code, output[-3000:]
  return output


def maps(workdir):
  with np.load(workdir / 'report' / 'map.npz') as data:
    return {name: data[name] for name in data}


def assert_equal_maps(got, want):
  """What BC found, bit by bit: it does not depend on the other learners."""
  names = [name for name in want if name.startswith('bc/')]
  assert len(names) == 5
  for name in names:
    np.testing.assert_array_equal(got[name], want[name], err_msg=name)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """The test variant on one device, with logs."""
  folder = tmp_path_factory.mktemp('run')
  finish(start(folder, f'--config.report.log={folder}/log'))
  return folder


def test_the_test_variant_answers_the_three_questions(run):
  results = json.loads((run / 'report' / 'results.json').read_text())
  bc = results['final']['bc']
  assert bc['map/auc_all_masks'] > 0.7 and bc['map/masks'] == 64 and bc['map/equality_p'] <= 0.05
  assert bc['curve/top'] > bc['curve/bottom'] and bc['curve/all'] > bc['curve/bottom']
  assert bc['map/auc_contrast'] == pytest.approx(bc['map/auc_contrast_plus_100'])
  # The cross test: what BC finds important, given to the others.
  assert {'curve/top_of_bc', 'curve/top_of_bco'} <= results['final']['gail'].keys()
  agreement = results['agreement']
  assert agreement['names'] == ['bc', 'bco', 'gail'] and np.shape(agreement['spearman']) == (3, 3)
  assert (run / 'report' / 'index.html').stat().st_size > 1000


def test_saved_maps_are_read_back(run):
  path, saved = run / 'report' / 'map.npz', maps(run)
  assert saved['truth'].shape == (2, 6) and saved['gail/seed_maps'].shape == (2, 2, 6)
  for name in ('bc', 'bco', 'gail'):
    np.testing.assert_array_equal(summary.load_map(path, name), saved[f'{name}/map'])
  with pytest.raises(ValueError, match=r"no map of 'dagger'; it holds: bc, bco, gail"):
    summary.load_map(path, 'dagger')


def test_four_devices_make_the_same_map(tmp_path, run):
  output = finish(start(tmp_path, BC_ONLY, devices=4))
  assert 'on 4 x cpu' in output
  assert_equal_maps(maps(tmp_path), maps(run))


def test_a_killed_run_ends_in_the_same_maps_and_redoes_only_the_torn_chunk(tmp_path, run):
  """Killed after two chunks, its log torn in the third line and its newest checkpoint lost."""
  complete = (run / 'log' / 'bc.jsonl').read_bytes()
  log = tmp_path / 'log' / 'bc.jsonl'
  arguments = (BC_ONLY, f'--config.report.log={tmp_path}/log')
  process = start(tmp_path, *arguments)
  end = time.monotonic() + 120
  while not (log.exists() and log.read_bytes().count(b'\n') >= 3):
    assert time.monotonic() < end and process.poll() is None, 'no chunk was trained'
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  lines = log.read_bytes().splitlines(keepends=True)
  assert complete.startswith(b''.join(lines[:3]))
  torn = b''.join(lines[:2]) + lines[2][:30]
  log.write_bytes(torn)
  finish(start(tmp_path, *arguments))
  assert_equal_maps(maps(tmp_path), maps(run))
  assert log.read_bytes().startswith(torn + b'\n')
  about = json.loads(complete.splitlines()[0])['about']
  assert r2rise.ReturnsLog(str(log), about).known == r2rise.ReturnsLog(str(run / 'log' / 'bc.jsonl'), about).known


@pytest.mark.parametrize(
  'field, value, message',
  [
    ('mask.keep', 1.0, 'p=1.0'),
    ('mask.block', 7, 'block=7'),
    ('bc.masks', 1, 'config.bc: masks=1'),
    ('bc.chunk', 3, 'config.bc: chunk=3'),
    ('bc.network', 'resnet', "config.bc.network='resnet'"),
    ('bc.optimizer', 'lion', "config.bc.optimizer='lion'"),
    ('bc.sampling', 'best', "sampling='best'"),
    ('bco.pair_mask', 'second', "pair_mask='second'"),
    ('learners', ('bc', 'dagger'), "config.learners='dagger'"),
    ('learners', ('bc', 'bc'), 'none twice'),
    ('estimator', 'mean', "config.estimator='mean'"),
    ('estimator', 'antithetic', 'mask.antithetic=True'),
    ('environment', 'chess', 'chess'),
    ('seeds', 0, 'config.seeds=0'),
    ('stop.target', 1.0, 'config.stop.target=1.0'),
    ('play.epsilon', 1.5, 'config.play.epsilon=1.5'),
    ('curve.fractions', (0.5, 1.0), 'config.curve.fractions holds 1.0'),
    ('curve.learners', 1, 'at least 2 learners'),
    ('bc.batching', 'loop', "batching='loop'"),
  ],
)
def test_wrong_settings_are_named(field, value, message):
  config = config_module.get_config('test')
  config.update_from_flattened_dict({field: value})
  with pytest.raises(UserError, match=message):
    experiment.experiment(config)


def test_soft_masks_need_a_sampling_that_weighs():
  config = config_module.get_config('test')
  config.mask.smooth, config.bc.sampling = True, 'permute'
  with pytest.raises(UserError, match=r"config.bc.sampling='permute'"):
    experiment.experiment(config)


def test_a_game_on_the_host_has_no_axis_of_learners(monkeypatch):
  config = config_module.get_config('test')
  problem = experiment._problem(config)
  outside = problem._replace(environment=problem.environment._replace(pure=False))
  monkeypatch.setattr(experiment, '_problem', lambda config: outside)
  with pytest.raises(UserError, match=r"forks plays on the host: config.bco.batching must be 'map'"):
    experiment.experiment(config)
  monkeypatch.setattr(experiment.jax, 'local_device_count', lambda: 2)
  with pytest.raises(UserError, match='use one device per process, not 2'):
    experiment.experiment(config)


@pytest.mark.parametrize('name', ['default', 'test', 'breakout10'])
def test_every_variant_of_own_games_can_be_built(name):
  config = config_module.get_config(name)
  stages = experiment.experiment(config).stages
  assert [stage.name for stage in stages] == ['policy', *config.learners]


def test_wrong_demonstrations_are_named():
  observations, actions = np.zeros((1, 3, 2), np.float32), np.zeros((1, 3), int)
  with pytest.raises(ValueError, match='actions hold 4 at trajectory 0, frame 0'):
    r2rise.make_demonstrations(observations, actions + 4, num_actions=4)
  with pytest.raises(ValueError, match='actions hold -1'):
    r2rise.make_demonstrations(observations, actions - 1, num_actions=4)
  with pytest.raises(ValueError, match='one action per observation'):
    r2rise.make_demonstrations(observations, actions[:, :2])
  with pytest.raises(ValueError, match='NaN or infinity at trajectory 0, frame 0'):
    r2rise.make_demonstrations(observations * np.nan, actions)
  with pytest.raises(ValueError, match='empty'):
    r2rise.make_demonstrations(observations[:, :0], actions[:, :0])
