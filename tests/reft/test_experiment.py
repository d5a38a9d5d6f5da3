"""The test variant end to end in a process; going on from a checkpoint; lanes, and settings that cannot be."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import reft as settings
from jaxpapers.engine import loop
from jaxpapers.engine.errors import UserError
from jaxpapers.reft import base_file, experiment, fewshapes, lanes, report

ROOT = Path(__file__).parents[2]


def test_variant_trains_and_reports(tmp_path):
  command = [sys.executable, 'launch/train.py', '--config=configs/reft.py:test', f'--workdir={tmp_path}/run']
  # Without the shared folder: the embedded run needs no data.
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'JAXPAPERS_SHARED': str(tmp_path / 'nothing')}
  process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
  assert process.returncode == 0, process.stderr
  results = json.loads((tmp_path / 'run/report/results.json').read_text())
  assert {(r['variant'], r['shots']) for r in results['rows']} == {('baseline', 2), ('support_both', 2)}
  assert all({'test/support_both_k2_nAP', 'test/baseline_k2_bAP'} <= set(v) for v in results['final'].values())
  for name in ('by_shots', 'per_class', 'predictions', 'similarity', 'dynamic_weights', 'queries', 'attention'):
    assert (tmp_path / f'run/report/{name}.png').stat().st_size > 5000


def test_every_stage_fits_its_batches():
  """Without compiling anything: base stages, untrained use, incremental lanes with their teacher."""
  config = settings.get_config('test')
  config.from_scratch, config.untrained = True, ('support',)
  config.base.images = 40
  config.few_shot.variants = ()
  config.incremental.variants = ('all_trained', 'class_enhanced')
  states = {}
  for stage in experiment.experiment(config).stages:
    batch = stage.batch(0)
    state = states[stage.name] = jax.eval_shape(stage.init, jax.random.key(0), batch, states)
    if stage.steps:
      assert jax.eval_shape(stage.step, state, batch, jax.random.key(0))[0] == state, stage.name
    if stage.name == 'untrained':
      (evaluation,) = stage.evaluations
      out = jax.eval_shape(evaluation.step, state, next(iter(evaluation.batches())))
      assert out['scores'].shape == (8, 1, 8, 12) and out['ious'].shape == (8, 1, 8, 2)
  assert list(states) == ['warm_up', 'plain', 'episodes', 'untrained', 'incremental']
  assert set(states['incremental'].model_state) == {'teacher'}


def test_fsis_keeps_the_base_classes_out():
  config = settings.get_config('test')
  config.few_shot.setting = 'fsis'
  batch = experiment.experiment(config).stages[0].batch(0)
  assert set(np.unique(batch['query'] % 12)) <= set(fewshapes.NOVEL)
  np.testing.assert_array_equal(batch['support'] % 12, np.tile(fewshapes.NOVEL, (2, 1)))


class Cut(Exception):
  """The power went."""


def test_training_goes_on_from_a_checkpoint_bitwise(tmp_path, capsys):
  config = settings.get_config('test')
  config.update({'log_every': 1, 'from_scratch': True})
  config.base.images = 40
  config.base.warm_up.update({'steps': 16, 'batch_size': 2})
  config.checkpoint.every = 4
  built = experiment.experiment(config)
  stage, final = built.stages[0], {}

  def run(folder, fails_at=None):
    def batch(step):
      if step == fails_at:
        raise Cut
      return stage.batch(step)

    part = dataclasses.replace(stage, batch=batch)
    made = dataclasses.replace(built, stages=[part], report=lambda states, page: final.update({folder: states}))
    loop.run(made, config, str(tmp_path / folder))

  run('whole')
  with pytest.raises(Cut):
    run('cut', 14)
  run('cut')
  assert 'resuming at step' in capsys.readouterr().out
  jax.tree.map(np.testing.assert_array_equal, *(jax.device_get(final[k]['warm_up']) for k in ('whole', 'cut')))
  assert int(final['whole']['warm_up'].step) == 16


def test_lanes_of_a_set_see_the_same_images():
  rows = [lanes.Lane(name, 3, seed) for name in ('baseline', 'both') for seed in (0, 1)]
  table = lanes.Lanes(rows, lanes.VARIANTS, (), (8, 9), tuple(range(12)), 6)
  batch = table.batch(5)
  np.testing.assert_array_equal(batch['query'][0], batch['query'][2])
  np.testing.assert_array_equal(batch['support'][1], batch['support'][3])
  assert (batch['query'][0] != batch['query'][1]).any()
  assert set((batch['query'] % 12).ravel()) == {8, 9} and batch['query'].max() < 36
  np.testing.assert_array_equal(batch['support'] % 12, np.tile(np.arange(12), (4, 1)))


def test_the_verdict_says_gain_only_when_the_interval_does():
  def row(stage, name, novel):
    values = np.asarray(novel, float)
    return report.Row(stage, name, 5, values, 30.0 + 0 * values, values + 10.0, np.zeros(12))

  rows = [
    row('few_shot', 'baseline', [10, 12, 11]),
    row('few_shot', 'both', [10, 13, 10.5]),
    row('few_shot', 'support', [15, 17.2, 16]),
    row('untrained', 'support', [22, 22, 22]),
  ]
  words = report.verdict(rows)
  assert 'no difference beyond chance' in next(w for w in words if 'both references' in w)
  assert 'a gain' in next(w for w in words if 'fine-tuned with the support head: nAP' in w)
  assert 'AP differs by +11.0' in next(w for w in words if 'over all classes' in w)
  assert '2.0 times' in next(w for w in words if 'without any training' in w)


def test_packaged_base_model_says_how_it_was_made():
  params, note = base_file.read()
  assert note['command'].startswith('python launch/train.py --config=configs/reft.py:base') and note['seed'] == 0
  assert base_file.PACKAGED.stat().st_size < 1_000_000
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))
  assert sum(x.size for x in jax.tree.leaves(params)) == 153_985
  default = settings.get_config()
  default.untrained = ()
  default.few_shot.variants = ()
  default.incremental.variants = ()
  with pytest.raises(UserError, match='nothing to do'):
    experiment.experiment(default)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'task': 'coc'}, "config.task='coc' is not known"),
    ({'parallel': 'pmap'}, "config.parallel must be 'jit'"),
    ({'untrained': ('third',)}, "Variant 'third' is not known"),
    ({'shot_sets': 0}, 'must be at least 1'),
    ({'base_file': 'nothing.npz'}, 'nothing.npz cannot be read as a base model'),
  ],
)
def test_unknown_settings_are_named(change, message):
  config = settings.get_config('test')
  config.update(change)
  with pytest.raises(UserError, match=message):
    experiment.experiment(config)


def test_another_models_parameters_are_refused(tmp_path):
  params, note = base_file.read()
  base_file.write(tmp_path / 'base.npz', {**params, 'more': np.zeros(2, np.float32)}, note)
  config = settings.get_config('test')
  config.base_file = str(tmp_path / 'base.npz')
  config.mini.update(settings.get_config().mini)
  with pytest.raises(UserError, match='parameters of another model'):
    experiment.experiment(config)


def test_scenes_of_the_lanes_are_the_first_shots():
  """K = 1 of a set of K = 5: the same images."""
  few, many = fewshapes.shots(3, 1), fewshapes.shots(3, 2)
  np.testing.assert_array_equal(few.images, many.images[:12])
