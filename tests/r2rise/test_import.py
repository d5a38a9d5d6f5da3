"""A policy of one's own: imported, evaluated by launch/evaluate.py, and the start of every training."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import r2rise as config_module
from jaxpapers.engine import UserError, load_variables
from jaxpapers.r2rise import experiment, official
from jaxpapers.r2rise.model import NatureCnn, NatureFeatures, nature_features

ROOT = Path(__file__).resolve().parents[2]
TABLE = np.random.default_rng(0).normal(size=(4, 10)).astype(np.float32)  # [actions, pixels]


def launch(program, *arguments):
  env = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': '--xla_backend_optimization_level=0'}
  done = subprocess.run(
    [sys.executable, f'launch/{program}.py', *arguments], cwd=ROOT, capture_output=True, text=True, env=env
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return done.stdout


def test_an_imported_policy_is_evaluated_and_starts_every_training(tmp_path):
  # The expert itself: a large logit for the right action at every position.
  config = config_module.get_config('test')
  demos = experiment._problem(config).demos
  table = np.zeros_like(TABLE)
  table[demos.actions[0], np.arange(6)] = 9.0
  np.savez(tmp_path / 'policy.npz', **{'table.weight': table})
  settings = '--config=configs/r2rise.py:test'
  workdir = tmp_path / 'imported'
  launch('import_weights', settings, f'--weights={tmp_path}/policy.npz', f'--workdir={workdir}')
  np.testing.assert_array_equal(load_variables(str(workdir))['params']['table']['kernel'], table.T)
  output = launch('evaluate', f'--workdir={workdir}')
  value = float(output.split('policy/return ')[1].split()[0])
  assert 2.5 < value <= 3.0  # of three forks, with 5 % random actions
  config.init_from = str(workdir)
  policy = experiment.experiment(config).stages[0]
  start = experiment._start(config, experiment._problem(config).environment)
  learner, _, _ = experiment.bc_parts(config.bc, experiment._problem(config).environment, start)
  frames = experiment.make_frames(demos)
  nothing = np.zeros(len(frames.actions), np.float32)
  np.testing.assert_array_equal(learner.train(jax.random.key(0), frames, nothing)['table']['kernel'], table.T)
  assert policy.name == 'policy'


@pytest.mark.parametrize(
  'state, message',
  [
    ({}, 'table.weight is missing'),
    ({'table.weight': TABLE, 'table.bias': np.zeros(4)}, 'table.bias is unexpected'),
    ({'table.weight': TABLE.T}, r'table.weight has shape \(10, 4\), not \(4, 10\)'),
  ],
)
def test_weights_of_another_network_are_refused_by_name(state, message):
  with pytest.raises(UserError, match=message):
    experiment.import_variables(config_module.get_config('test'), state)


def test_layers_of_a_perceptron_are_transposed():
  config = config_module.get_config('test')
  config.bc.network, config.bc.hidden = 'mlp', (3,)
  rng = np.random.default_rng(1)
  state = {'fc1.weight': (3, 10), 'fc1.bias': (3,), 'output.weight': (4, 3), 'output.bias': (4,)}
  state = {name: rng.normal(size=shape).astype(np.float32) for name, shape in state.items()}
  params = experiment.import_variables(config, state)['params']
  x = rng.normal(size=(5, 10)).astype(np.float32)
  want = np.maximum(x @ state['fc1.weight'].T + state['fc1.bias'], 0) @ state['output.weight'].T + state['output.bias']
  network = experiment._network(config.bc, 4)
  np.testing.assert_allclose(network.apply({'params': params}, x.reshape(5, 1, 10, 1)), want, atol=1e-5)


def test_the_authors_network_round_trips_and_lends_its_convolutions():
  network = NatureCnn(4)
  params = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, 84, 84, 4), np.float32))['params']
  rng = np.random.default_rng(2)
  params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32) * 0.05, params)
  assert sum(x.size for x in jax.tree.leaves(params)) == 1_684_128 + 513 * 4
  named = official.export_official(params)
  again = official.import_official(named, 4)['params']
  jax.tree.map(np.testing.assert_array_equal, again, params)
  pixels = rng.integers(0, 256, (1, 84, 84, 4), np.uint8)
  maps = NatureFeatures().apply({'params': params['cnn']}, pixels.astype(np.float32) / 255)
  np.testing.assert_allclose(nature_features(params['cnn'])(pixels), maps[-1].reshape(1, -1), atol=1e-5)


def test_features_of_a_network_need_the_network():
  config = config_module.get_config('test')
  config.gail.features = 'nature'
  with pytest.raises(UserError, match=r"config.gail.features='nature' needs config.init_from"):
    experiment.experiment(config)
  config.gail.features = 'pixels'
  with pytest.raises(UserError, match=r"config.gail.features='pixels' is not known"):
    experiment.experiment(config)
