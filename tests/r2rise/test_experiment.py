"""The map does not depend on chunks; bad input is named; the whole program runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import r2rise as config_module
from jaxpapers import r2rise
from jaxpapers.engine import UserError
from jaxpapers.r2rise import experiment

ROOT = Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(0)
MASKS = RNG.random((24, 6)) < 0.5
RETURNS = RNG.normal(size=24) + 3.0


@pytest.mark.parametrize('size', [1, 3, 24])
def test_sums_of_chunks_and_of_merged_hosts_are_those_of_all_masks(size):
  want = r2rise.importance_map(MASKS, RETURNS)
  streamed = r2rise.importance_init(6)
  for start in range(0, 24, size):
    streamed = r2rise.importance_update(streamed, MASKS[start : start + size], RETURNS[start : start + size])
  hosts = r2rise.importance_init(6)
  for host in range(4):
    part = r2rise.importance_update(r2rise.importance_init(6), MASKS[host::4], RETURNS[host::4])
    hosts = r2rise.importance_merge(hosts, part)
  for stats in (streamed, hosts):
    for got, value in zip(r2rise.finalise(stats), want, strict=True):
      np.testing.assert_allclose(got, value, atol=1e-10)


def test_masks_depend_on_their_number_alone():
  key = jax.random.key(3)
  whole = r2rise.sample_cells(key, jnp.arange(400), 2, 10, 0.3)
  np.testing.assert_array_equal(whole[7:10], r2rise.sample_cells(key, jnp.arange(7, 10), 2, 10, 0.3))
  assert abs(float(whole.mean()) - 0.3) < 4 * np.sqrt(0.3 * 0.7 / whole.size)


def test_contrast_ignores_a_constant_and_the_raw_sum_does_not():
  for name, equal in (('contrast', True), ('raw_sum', False)):
    a, b = (r2rise.importance_map(MASKS, RETURNS + c, name).value for c in (0.0, 100.0))
    assert np.array_equal(np.argsort(a), np.argsort(b)) == equal


@pytest.mark.parametrize(
  'field, value, message',
  [
    ('keep', 1.0, 'p=1.0'),
    ('block', 7, 'block=7'),
    ('masks', 0, 'config.masks=0'),
    ('estimator', 'mean', "config.estimator='mean'"),
    ('env', 'chess', "config.env='chess'"),
  ],
)
def test_wrong_settings_are_named(field, value, message):
  config = config_module.get_config('test')
  config[field] = value
  with pytest.raises(UserError, match=message):
    experiment.experiment(config)


def test_wrong_demonstrations_and_returns_are_named():
  observations, actions = np.zeros((1, 3, 2), np.float32), np.zeros((1, 3), int)
  with pytest.raises(ValueError, match='actions hold 4'):
    r2rise.make_demonstrations(observations, actions + 4, num_actions=4)
  with pytest.raises(ValueError, match='one action per observation'):
    r2rise.make_demonstrations(observations, actions[:, :2])
  with pytest.raises(ValueError, match='NaN or infinity at trajectory 0, frame 0'):
    r2rise.make_demonstrations(observations * np.nan, actions)
  with pytest.raises(ValueError, match='return of mask 5'):
    r2rise.importance_map(MASKS, np.where(np.arange(24) == 5, np.nan, RETURNS))


def test_the_test_variant_runs_from_end_to_end(tmp_path):
  command = [sys.executable, 'launch/train.py', '--config=configs/r2rise.py:test', f'--workdir={tmp_path}/run']
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, 'JAX_PLATFORMS': 'cpu'})
  assert done.returncode == 0, done.stderr[-3000:]
  final = json.loads((tmp_path / 'run' / 'report' / 'results.json').read_text())['final']
  assert final['map']['map/auc'] > 0.6
  assert final['curve']['curve/top'] > final['curve']['curve/bottom']
  assert np.load(tmp_path / 'run' / 'report' / 'map.npz')['map'].shape == (2, 6)
