"""EMO on eight simulated devices: jit, sharded or not, gives one device's parameters; batch statistics are global."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.engine.toy import final_arrays

ROOT = Path(__file__).parent.parent.parent
SETTINGS = ('train.steps=5', 'train.eval_every=0', 'train.ema_decay=0.0', 'model.depths=(1,1,2,1)')
# Adam turns the rounding noise of gradients that are truly zero into steps: the stem's bias (batch norm follows), and
# the keys' half of the bias of q and k. The stem's running mean follows its bias.
ARBITRARY = ('stem/conv/bias', 'qk/bias', 'stem/norm/mean', 'opt_state')


def train(workdir, devices, *settings):
  command = [sys.executable, 'launch/train.py', '--config=configs/emo.py:test', f'--workdir={workdir}']
  command += [f'--config.{setting}' for setting in (*SETTINGS, *settings)]
  env = {**os.environ, 'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}', 'JAX_PLATFORMS': 'cpu'}
  process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env, check=False)
  assert process.returncode == 0, process.stderr
  arrays = final_arrays(workdir, 'emo')
  return {name: x for name, x in arrays.items() if not any(part in name for part in ARBITRARY)}


@pytest.fixture(scope='module')
def single(tmp_path_factory):
  return train(tmp_path_factory.mktemp('single'), 1)


@pytest.mark.parametrize('settings', [(), ('mesh.fsdp=True',)])
def test_eight_devices_equal_one(tmp_path, single, settings):
  many = train(tmp_path, 8, *settings)
  assert many.keys() == single.keys()
  for name, want in single.items():
    np.testing.assert_allclose(many[name], want, rtol=1e-3, atol=1e-4, err_msg=name)
