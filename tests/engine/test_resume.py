"""Stopping anywhere and starting the same command again gives the bits of an uninterrupted run."""

import os
import signal
import subprocess
import sys
import time

import pytest

from jaxpapers.engine import errors, loop
from tests.engine import toy


def start(workdir, *pairs, **env):
  return subprocess.Popen(
    [sys.executable, '-m', 'tests.engine.toy', str(workdir), *pairs],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    env={**os.environ, **env},
  )


def finish(process, code=0):
  output, _ = process.communicate(timeout=240)
  assert process.returncode == code, output
  return output


@pytest.fixture(scope='session')
def uninterrupted(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('whole')
  finish(start(workdir))
  return toy.final_arrays(workdir)


def wait_for(workdir, text, process, seconds=120):
  """Until metrics.jsonl holds `text`."""
  path = workdir / 'metrics.jsonl'
  end = time.monotonic() + seconds
  while time.monotonic() < end and process.poll() is None:
    if path.exists() and text in path.read_text():
      return
    time.sleep(0.02)
  raise AssertionError(f'{text!r} never came: {process.communicate()[0]}')


def test_two_runs_are_bitwise_equal(tmp_path, uninterrupted):
  finish(start(tmp_path / 'again'))
  assert toy.digest(toy.final_arrays(tmp_path / 'again')) == toy.digest(uninterrupted)


def test_killed_at_three_moments(tmp_path, uninterrupted):
  moments = ['first_step_seconds', '"step": 20', '"stage": "second", "step": 1']
  for moment in moments:
    process = start(tmp_path, 'delay=0.05')
    wait_for(tmp_path, moment, process)
    process.kill()
    process.communicate()
  output = finish(start(tmp_path, 'delay=0.0'))
  assert 'resuming at step' in output
  assert toy.digest(toy.final_arrays(tmp_path)) == toy.digest(uninterrupted)
  steps = [(r['stage'], r['step']) for r in loop_metrics(tmp_path) if 'loss' in r]
  assert len(steps) == len(set(steps)), 'a resumed run logs no step twice'


def loop_metrics(workdir):
  from jaxpapers.engine.checkpoint import workdir_path
  from jaxpapers.engine.logs import read_metrics

  return read_metrics(workdir_path(str(workdir)))


def test_sigterm_saves_within_one_step(tmp_path, uninterrupted):
  process = start(tmp_path, 'delay=0.1', 'log_every=1', 'checkpoint.every=1000')
  wait_for(tmp_path, '"step": 3', process)
  process.send_signal(signal.SIGTERM)
  output = finish(process, errors.EXIT_PREEMPTED)
  assert 'Told to stop: first saved at step' in output
  logged = max(r['step'] for r in loop_metrics(tmp_path))
  saved = int(output.split('saved at step ')[1].split()[0])
  assert saved - logged <= 1
  finish(start(tmp_path, 'checkpoint.every=1000'))
  assert toy.digest(toy.final_arrays(tmp_path)) == toy.digest(uninterrupted)


@pytest.mark.parametrize(
  ('moment', 'pairs'),
  [
    ('first step', ['compile_delay=3']),
    ('evaluating', ['eval_delay=3']),
    ('next stage', ['init_delay=3']),
  ],
)
def test_sigterm_is_seen_outside_the_step_too(tmp_path, uninterrupted, moment, pairs):
  process = start(tmp_path, *pairs, 'checkpoint.every=1000')
  for line in process.stdout:
    if line.startswith(f'now: {moment}'):
      process.send_signal(signal.SIGTERM)
      break
  finish(process, errors.EXIT_PREEMPTED)
  finish(start(tmp_path, 'checkpoint.every=1000'))
  assert toy.digest(toy.final_arrays(tmp_path)) == toy.digest(uninterrupted)


def test_a_changed_model_is_refused(tmp_path):
  config = toy.settings()
  loop.run(toy.build(config, steps=5), config, str(tmp_path))
  other = toy.settings(seed=3)
  with pytest.raises(errors.UserError, match=r'config\.seed \(saved 0, now 3\)'):
    loop.run(toy.build(other, steps=5), other, str(tmp_path))
  with pytest.raises(errors.UserError, match=r'params/Dense_0/kernel \(saved float32\[8,16\], now float32\[8,24\]\)'):
    loop.run(toy.build(config, steps=5, width=24), config, str(tmp_path))
  free = toy.settings(log_every=1)
  loop.run(toy.build(free, steps=5), free, str(tmp_path))


def test_non_finite_loss_names_step_metric_and_checkpoint(tmp_path):
  config = toy.settings()
  with pytest.raises(
    errors.NonFiniteError, match=r'first: loss became nan at step 8; the last good checkpoint is step 4'
  ):
    loop.run(toy.build(config, nan_at=7), config, str(tmp_path))


def test_evaluation_counts_every_example_once(tmp_path):
  config = toy.settings()
  final = loop.run(toy.build(config, steps=3), config, str(tmp_path))
  assert final['first']['eval/count'] == toy.EXAMPLES
  again = loop.evaluate(toy.build(config, steps=3), config, str(tmp_path))
  assert again == final


def test_workdir_that_is_a_file(tmp_path):
  (tmp_path / 'file').write_text('')
  config = toy.settings()
  with pytest.raises(errors.UserError, match='cannot be used'):
    loop.run(toy.build(config, steps=3), config, str(tmp_path / 'file'))
