"""The test variant end to end in a process; going on from a checkpoint; a falling loss; settings that cannot be."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import vr_quality as settings
from jaxpapers.engine import loop
from jaxpapers.engine.errors import UserError
from jaxpapers.vr_quality import experiment, panoramas, report

ROOT = Path(__file__).parents[2]


def test_variant_trains_and_reports(tmp_path):
  command = [sys.executable, 'launch/train.py', '--config=configs/vr_quality.py:test', f'--workdir={tmp_path}/run']
  # Without the shared folder: the embedded run needs no data.
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'JAXPAPERS_SHARED': str(tmp_path / 'nothing')}
  process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
  assert process.returncode == 0, process.stderr
  results = json.loads((tmp_path / 'run/report/results.json').read_text())
  assert set(results['final']) == {'visibility'}
  assert all({'test/srcc', 'test/plcc', 'test/rmse'} <= set(v) for v in results['final'].values())
  assert set(results['seam_change']) == {'pseudocylindrical, visibility pooling'}
  for name in ('scatter', 'quality_map', 'film_strip', 'tiles', 'start_and_time', 'curves'):
    assert (tmp_path / f'run/report/{name}.png').stat().st_size > 5000


def test_all_models_have_steps_and_evaluations_that_fit_their_batches():
  config = settings.get_config('test')
  config.models = tuple(report.NAMES)
  for stage in experiment.experiment(config).stages:
    batch = stage.batch(0)
    state = jax.eval_shape(stage.init, jax.random.key(0), batch, {})
    assert jax.eval_shape(stage.step, state, batch, jax.random.key(0))[0] == state
    (evaluation,) = stage.evaluations
    out = jax.eval_shape(evaluation.step, state, next(iter(evaluation.batches())))
    assert out['score'].shape == out['mos'].shape == (4, 2), stage.name


class Cut(Exception):
  """The power went."""


def test_training_goes_on_from_a_checkpoint_to_the_same_losses_which_fall(tmp_path, capsys):
  config = settings.get_config('test')
  config.update({'models': ('visibility',), 'log_every': 1, 'seed': 1})
  config.data.update({'train_scenes': 16, 'batch_size': 8})
  config.train.epochs = 6
  config.checkpoint.every = 4
  built = experiment.experiment(config)
  stage = dataclasses.replace(built.stages[0], evaluations=(), batch=built.stages[0].batch)

  def run(folder, fails_at=None):
    def batch(step):
      if step == fails_at:
        raise Cut
      return stage.batch(step)

    made = dataclasses.replace(
      built, stages=[dataclasses.replace(stage, batch=batch)], report=lambda states, page: None
    )
    loop.run(made, config, str(tmp_path / folder))
    lines = (tmp_path / folder / 'metrics.jsonl').read_text().splitlines()
    return {r['step']: r['loss'] for r in map(json.loads, lines) if 'loss' in r}

  whole = run('whole')
  assert len(whole) == stage.steps == 24
  with pytest.raises(Cut):
    run('cut', 18)
  resumed = run('cut')
  assert 'resuming at step' in capsys.readouterr().out
  assert resumed == whole
  losses = np.array([whole[step] for step in sorted(whole)])
  assert losses[-4:].mean() < 0.5 * losses[:2].mean()


def test_scenes_come_from_real_panoramas_that_training_and_test_do_not_share(tmp_path):
  image = np.repeat(np.arange(8, dtype=np.uint8)[:, None, None, None] * 30, 64, 1).repeat(128, 2).repeat(3, 3)
  np.savez(tmp_path / panoramas.PHOTOGRAPHS, image=image)
  config = settings.get_config('test')
  config.data.update({'photographs': True, 'dir': str(tmp_path), 'train_scenes': 20, 'test_scenes': 10})
  train, test, _ = experiment._sources(config)
  # A constant photograph is recognised by its median, whatever the distortion.
  seen = [np.round(np.median(x.arrays['frames'], axis=(1, 2, 3, 4)) / 30) for x in (train, test)]
  assert seen[0].max() == 5 and seen[1].min() == 6 and seen[1].max() == 7
  config.data.height = 48
  with pytest.raises(UserError, match='48 dividing H'):
    experiment.experiment(config)
  (tmp_path / panoramas.PHOTOGRAPHS).write_bytes(b'nothing')
  with pytest.raises(UserError, match='cannot be read as panoramas'):
    experiment.experiment(config)


@pytest.mark.parametrize(
  ('change', 'message'),
  [({'task': 'qualty'}, "config.task='qualty' is not known"), ({'models': ('visibility', 'cube')}, "holds 'cube'")],
)
def test_unknown_settings_are_named(change, message):
  config = settings.get_config('test')
  config.update(change)
  with pytest.raises(UserError, match=message):
    experiment.experiment(config)
