"""One device, eight devices, and two processes give the same parameters."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxpapers.engine import UserError, errors
from tests.engine import toy


def start(devices, workdir, *pairs):
  env = {**os.environ, 'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}', 'JAX_PLATFORMS': 'cpu'}
  command = [sys.executable, '-m', 'tests.engine.toy', str(workdir), 'steps=5', *pairs]
  return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def finish(process, code=0):
  output, _ = process.communicate(timeout=240)
  assert process.returncode == code, output
  return output


def train(devices, workdir, *pairs):
  finish(start(devices, workdir, *pairs))
  return toy.final_arrays(workdir, 'first')


def assert_close(got, want, atol=2e-6):
  assert got.keys() == want.keys()
  for name in want:
    np.testing.assert_allclose(got[name], want[name], atol=atol, rtol=1e-5, err_msg=name)


@pytest.fixture(scope='module')
def single(tmp_path_factory):
  folder = tmp_path_factory.mktemp('single')
  return {norm: train(1, folder / str(norm), f'norm={norm}') for norm in (False, True)}


@pytest.mark.parametrize('norm', [False, True])
def test_eight_devices_by_jit(tmp_path, single, norm):
  assert_close(train(8, tmp_path, f'norm={norm}'), single[norm])


def test_eight_devices_by_fsdp(tmp_path, single):
  assert_close(train(8, tmp_path, 'mesh.fsdp=True', 'mesh.data=4', 'mesh.model=2', 'norm=True'), single[True])


def test_eight_devices_by_pmap(tmp_path, single):
  assert_close(train(8, tmp_path, 'parallel=pmap'), single[False])


def test_pmap_has_statistics_per_device(tmp_path, single):
  with pytest.raises(AssertionError):
    assert_close(train(8, tmp_path, 'parallel=pmap', 'norm=True'), single[True])


def test_a_run_on_eight_devices_goes_on_on_one(tmp_path, single):
  finish(start(8, tmp_path, 'nan_at=4', 'checkpoint.every=2', 'mesh.fsdp=True'), errors.EXIT_NON_FINITE)
  assert 'resuming at step 4' in finish(start(1, tmp_path, 'checkpoint.every=2', 'mesh.fsdp=True'))
  assert_close(toy.final_arrays(tmp_path, 'first'), single[False])


def test_indivisible_batch_names_sizes_that_work(tmp_path):
  output = finish(start(6, tmp_path), errors.EXIT_SETTINGS)
  assert 'batch_size 16 does not divide over the 6 devices' in output and '12 or 18 would' in output


def test_mesh_that_does_not_fit(tmp_path):
  output = finish(start(4, tmp_path, 'mesh.data=3'), errors.EXIT_SETTINGS)
  assert 'the product must be the number of devices, 4' in output


def pair(workdir, *pairs):
  """Two processes with two devices each."""
  with socket.socket() as s:
    s.bind(('localhost', 0))
    port = s.getsockname()[1]
  join = (f'coordinator=localhost:{port}', 'processes=2')
  return [start(2, workdir, *join, f'process_id={i}', *pairs) for i in (0, 1)]


def test_sigterm_to_one_of_two_processes_stops_both_at_one_step(tmp_path):
  processes = pair(tmp_path, 'delay=0.2', 'steps=400', 'log_every=1', 'checkpoint.every=1000')
  log = tmp_path / 'metrics.jsonl'
  end = time.monotonic() + 120
  while not (log.exists() and '"step": 2' in log.read_text()):
    assert time.monotonic() < end and processes[0].poll() is None, 'training never began'
    time.sleep(0.05)
  processes[1].send_signal(signal.SIGTERM)
  steps = {finish(p, errors.EXIT_PREEMPTED).split('saved at step ')[1].split()[0] for p in processes}
  assert len(steps) == 1
  assert (tmp_path / 'checkpoints' / 'first' / steps.pop()).is_dir()


def test_two_processes_with_two_devices_train_checkpoint_and_resume(tmp_path, single):
  for process in pair(tmp_path, 'nan_at=4', 'checkpoint.every=2'):
    output, _ = process.communicate(timeout=240)
    assert process.returncode != 0 and 'became nan' in output
  outputs = [finish(p) for p in pair(tmp_path, 'checkpoint.every=2')]
  assert 'resuming at step 4' in outputs[0] and 'resuming' not in outputs[1]
  assert_close(toy.final_arrays(tmp_path, 'first'), single[False])


def test_process_flags_go_together():
  from jaxpapers.engine import distributed

  with pytest.raises(UserError, match='go together'):
    distributed.initialize('localhost:1', 2)
  with pytest.raises(UserError, match='below'):
    distributed.initialize('localhost:1', 2, 2)
