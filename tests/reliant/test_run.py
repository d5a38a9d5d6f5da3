"""The `test` variant in a process of its own, and a run that is stopped and started again."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import reliant as config_module
from jaxpapers.engine import loop
from jaxpapers.engine.errors import PreemptedError
from jaxpapers.reliant import experiment

ROOT = Path(__file__).resolve().parents[2]


def test_the_test_variant_runs_from_end_to_end(tmp_path):
  command = [sys.executable, 'launch/train.py', '--config=configs/reliant.py:test', f'--workdir={tmp_path}/run']
  env = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
  assert done.returncode == 0, done.stderr[-3000:]
  results = json.loads((tmp_path / 'run' / 'report' / 'results.json').read_text())
  assert set(results['final']) == {'teacher', 'vanilla', 'reliant'}
  assert results['final']['teacher']['test/accuracy'] > 0.9
  assert 'test/dsp_alpha_1009' in results['final']['reliant'] and 0.1 < results['label_gap'] < 0.4
  pictures = {p.stem for p in (tmp_path / 'run' / 'report').glob('*.png')}
  assert pictures == {'bars', 'front', 'curves', 'groups', 'confusion', 'proxies', 'step'}
  assert list(results['proxy_probe_over_training']) == ['0', '13', '20', '7']
  # Random proxies tell nothing of s.
  assert abs(results['proxy_probe_over_training']['0'] - results['proxy_probe_majority']) < 0.1


def run(workdir, stop_in=''):
  """Final states of teacher and RELIANT after a few epochs; `stop_in` tells the run to stop amid that stage."""
  config = config_module.get_config('test')
  config.update({'seeds': 1, 'also_metrics': (), 'sweep': (), 'epochs_per_step': 4})
  config.teacher_training.epochs = 8
  config.student.update({'epochs': 12, 'num_layers': 3, 'hidden': 4})
  config.data.prefetch = 1
  made, states = experiment.experiment(config), {}

  def told(stage):
    def batch(step):
      # Batches are made ahead: this one when the first step has its own.
      if step == 2:
        os.kill(os.getpid(), signal.SIGTERM)
      return stage.batch(step)

    return dataclasses.replace(stage, evaluations=(), batch=batch if stage.name == stop_in else stage.batch)

  def keep(final, page):
    states.update(jax.tree.map(np.asarray, dict(final)))

  stages = [told(stage) for stage in made.stages if stage.name != 'vanilla']
  made = dataclasses.replace(made, stages=stages, report=keep)
  loop.run(made, config, str(workdir))
  return states


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path):
  whole = run(tmp_path / 'whole')
  with pytest.raises(PreemptedError, match='reliant saved at step [12] of 3'):
    run(tmp_path / 'stopped', 'reliant')
  resumed = run(tmp_path / 'stopped')
  assert set(resumed) == {'teacher', 'reliant'}
  jax.tree.map(np.testing.assert_array_equal, resumed, whole)
  best = resumed['reliant'].model_state['best']
  assert set(best['params']) == {'student', 'proxy'} and 1 <= best['epoch'][0] <= 12
  trace = resumed['reliant'].model_state['trace'][0]
  assert not np.array_equal(trace[0], trace[1])
  np.testing.assert_array_equal(trace[-1], resumed['reliant'].params['proxy'][0])
