"""The test variant in a process; going on from a checkpoint; the nuScenes recipes; settings that cannot be."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import cmt as settings
from jaxpapers.cmt import experiment, nuscenes_experiment, official, report, scenes, small, steps
from jaxpapers.cmt.data import Switch
from jaxpapers.cmt.metrics import CLASSES
from jaxpapers.cmt.nuscenes import NuScenes
from jaxpapers.cmt.sensor_evaluation import SensorEvaluation, look_alikes
from jaxpapers.engine import loop
from jaxpapers.engine.errors import UserError
from tests.cmt import nuscenes_set
from tests.cmt.networks import small_model

ROOT = Path(__file__).parents[2]


def test_variant_trains_and_reports(tmp_path):
  command = [sys.executable, 'launch/train.py', '--config=configs/cmt.py:test', f'--workdir={tmp_path}/run']
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'JAXPAPERS_SHARED': str(tmp_path / 'nothing')}
  process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
  assert process.returncode == 0, process.stderr
  results = json.loads((tmp_path / 'run/report/results.json').read_text())
  final = results['final']['masked']
  assert {f'test/{row}_{metric}' for row in report.ROWS for metric in ('mAP', 'NDS', 'mAOE')} == set(final)
  assert set(results['mean_ap']['masked']) == set(report.ROWS)
  assert set(results['per_class']) == {*scenes.CLASSES, 'mean'}
  page = (tmp_path / 'run/report/index.html').read_text()
  assert 'zeroed images' in page
  drawn = 'sensors_map sensors_nds precision_recall errors from_above in_cameras look_alikes attention_lidar'
  for name in (*drawn.split(), 'attention_cameras', 'references', 'loss', 'learning_rate'):
    assert (tmp_path / f'run/report/{name}.png').stat().st_size > 5000, name


def test_training_goes_on_from_a_checkpoint_to_the_same_losses(tmp_path, capsys):
  config = settings.get_config('test')
  config.checkpoint.every = 2
  built = experiment.experiment(config)
  stage = dataclasses.replace(built.stages[0], evaluations=())
  built = dataclasses.replace(built, stages=[stage], report=lambda states, page: None)

  def run(folder):
    loop.run(built, config, str(folder))
    lines = (folder / 'metrics.jsonl').read_text().splitlines()
    return {r['step']: r['loss'] for r in map(json.loads, lines) if 'loss' in r}

  whole = run(tmp_path / 'whole')
  assert len(whole) == 4
  shutil.copytree(tmp_path / 'whole', tmp_path / 'cut')
  shutil.rmtree(tmp_path / 'cut/checkpoints/masked/4')
  assert run(tmp_path / 'cut') == whole
  assert 'resuming at step 2 of 4' in capsys.readouterr().out


def test_scenes_without_points_objects_or_cameras_have_finite_gradients():
  config = settings.get_config('test')
  setting = scenes.Surround(**config.data.scene)
  network = small.small_cmt(setting.pc_range, len(scenes.CLASSES), **config.model.network)
  detector = steps.Detector(network, groups=2)
  rng = np.random.default_rng(0)
  matrices = [np.stack([m] * 4) for m in scenes.rig(setting)]
  boxes = np.zeros((4, 2, 9), np.float32)
  boxes[:] = [3, 2, 0, 2, 1, 1.5, 0.3, 1, 0]
  batch = {
    'points': rng.uniform(-8, 8, (4, 30, 5)).astype(np.float32),
    'points_mask': np.ones((4, 30), bool),
    'images': rng.uniform(0, 255, (4, 6, setting.height, setting.width, 3)).astype(np.float32),
    'lidar2img': matrices[0],
    'img2lidar': matrices[1],
    'has_lidar': np.ones(4, bool),
    'has_camera': np.ones((4, 6), bool),
    'boxes': boxes,
    'labels': np.zeros((4, 2), np.int32),
    'boxes_mask': np.ones((4, 2), bool),
    'noise': rng.uniform(-1, 1, (4, 4, 3)).astype(np.float32),
  }
  batch['points_mask'][0] = False  # an empty cloud
  batch['boxes_mask'][1] = False  # nothing to find
  batch['has_camera'][2] = batch['has_camera'][3, 1:] = False  # no camera, a single one
  shapes = jax.eval_shape(lambda: detector.init(jax.random.key(0), batch))
  variables = jax.tree.map(lambda x: (0.1 * rng.normal(size=x.shape)).astype(np.float32), shapes)
  params, stats = variables['params'], jax.tree.map(np.ones_like, variables['batch_stats'])

  @jax.jit
  def gradients(params, batch):
    def objective(params):
      given = {'params': params, 'batch_stats': stats}
      output, _ = detector.apply(given, batch, train=True, mutable=['batch_stats'], rngs={'dropout': jax.random.key(0)})
      return detector.loss(output, batch)

    return jax.value_and_grad(objective, has_aux=True)(params)

  (_, metrics), found = gradients(params, batch)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((found, metrics)))
  assert metrics['box'] > 0 and metrics['dn_box'] > 0
  (_, metrics), found = gradients(params, {**batch, 'boxes_mask': np.zeros((4, 2), bool)})
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((found, metrics)))
  assert metrics['box'] == 0 and metrics['dn_box'] == 0 and metrics['label'] > 0


def test_one_program_serves_every_row_of_lost_sensors():
  rows = steps.sensor_rows(6)
  assert list(rows) == list(report.ROWS) or set(rows) == set(report.ROWS)
  batch = {
    'points': np.ones((2, 3, 5), np.float32),
    'images': np.ones((2, 6, 8, 8, 3), np.float32),
    'has_lidar': np.ones(2, bool),
    'has_camera': np.ones((2, 6), bool),
  }
  choose = jax.jit(lambda batch: steps.chosen_row(rows, batch))
  seen = {name: choose({**batch, 'row': np.full(2, k, np.int32)}) for k, name in enumerate(rows)}
  assert seen['both']['images'].all() and seen['both']['has_camera'].all()
  assert not seen['lidar_only_zero']['images'].any() and seen['lidar_only_zero']['has_camera'].all()
  assert not seen['lidar_only_drop']['has_camera'].any() and seen['lidar_only_drop']['images'].all()
  assert not seen['camera_only_zero']['points'].any() and seen['camera_only_zero']['has_lidar'].all()
  assert not seen['camera_only_drop']['has_lidar'].any()
  assert seen['front_camera_lost']['has_camera'].sum() == 10 and seen['front_camera_left']['has_camera'].sum() == 2


def test_an_evaluation_counts_every_scene_once_in_every_row():
  evaluation = SensorEvaluation(None, ('a', 'b'), ('c',), range(10), 4)
  batches = list(evaluation.batches())
  assert all(len(set(b['row'])) == 1 and len(b['scene']) == 4 for b in batches)
  for row in range(2):
    mine = [b['scene'][b['valid']] for b in batches if b['row'][0] == row]
    np.testing.assert_array_equal(np.concatenate(mine), np.arange(10))


def _outputs():
  """Two scenes with a post of each kind; the second one is called the first."""
  boxes = np.zeros((2, 1, 9), np.float32)
  boxes[..., 3:6] = 1
  boxes[:, 0, 0] = 3
  found = np.repeat(boxes, 2, axis=1)
  found[:, 1, 0] = 9
  return {
    'boxes': boxes,
    'labels': np.array([[2], [3]]),
    'boxes_mask': np.ones((2, 1), bool),
    'row': np.zeros(2, int),
    'valid': np.ones(2, bool),
    'found_boxes': found,
    'found_labels': np.array([[2, 2], [2, 3]]),
    'found_scores': np.array([[0.9, 0.8], [0.7, 0.6]]),
    'found_valid': np.ones((2, 2), bool),
  }


def test_scores_and_look_alikes_of_known_boxes():
  evaluation = SensorEvaluation(None, ('both',), scenes.CLASSES, range(2), 2)
  metrics = evaluation.summarize([_outputs()])
  assert 0.2 < metrics['both_mAP'] < 0.26  # one class of four is found
  np.testing.assert_array_equal(look_alikes(evaluation.outputs['both'], scenes.LOOK_ALIKE), [[1, 0, 0], [1, 0, 0]])
  far = {**_outputs(), 'found_boxes': _outputs()['found_boxes'] + 5}
  np.testing.assert_array_equal(look_alikes(far, scenes.LOOK_ALIKE), [[0, 0, 1], [0, 0, 1]])


def test_the_verdict_follows_the_numbers():
  good = {'both': 0.6, 'lidar_only_zero': 0.3, 'camera_only_zero': 0.2}
  bad = {'both': 0.7, 'lidar_only_zero': 0.1, 'camera_only_zero': 0.4}
  lines = report.verdict({'masked': good, 'plain': bad})
  assert len(lines) == 3 and 'Both sensors beat either one' in lines[0]
  assert 'holds' in lines[2] and 'from 0.100 to 0.200 (2.0 times)' in lines[2] and 'costs 0.100' in lines[2]
  assert 'does NOT hold' in report.verdict({'masked': bad, 'plain': good})[2]
  assert 'do NOT beat' in report.verdict({'plain': {**good, 'both': 0.25}})[0]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return str(nuscenes_set.write(tmp_path_factory.mktemp('nuscenes')))


def _recipe(folder, name='nuscenes_camera'):
  config = settings.get_config(name)
  config.data.update(
    {'dir': folder, 'version': nuscenes_set.VERSION, 'train_split': 'mini_train', 'test_split': 'mini_val'}
  )
  config.data.update({'max_points': 2000, 'max_boxes': 8, 'workers': 0, 'balanced': False})
  config.train.update({'batch_size': 2, 'epochs': 2, 'paste_epochs': 0})
  config.test.batch_size = 2
  return config


def test_published_recipe_has_steps_that_fit_its_batches(folder, monkeypatch):
  monkeypatch.setattr(nuscenes_experiment, 'build_model', lambda config: small_model())
  config = _recipe(folder, 'nuscenes_r50')
  config.data.update({'image_size': (64, 96), 'resize': (0.5, 0.6)})
  config.test.sensors = ('lidar_only_zero',)
  stage = experiment.experiment(config).stages[0]
  batch = stage.batch(0)
  assert stage.steps == 2 * (stage.batch.num_examples // 2)
  state = jax.eval_shape(stage.init, jax.random.key(0), batch, {})
  program, (new, metrics) = jax.make_jaxpr(stage.step, return_shape=True)(state, batch, jax.random.key(0))
  assert new == state
  assert 'scan' in str(program) and 'callback' not in str(program)  # matching too is inside
  assert {'loss', 'dropped_points', 'dropped_boxes', 'lost_voxels'} <= set(metrics)
  (evaluation,) = stage.evaluations
  assert evaluation.name == 'lidar_only_zero'
  out = jax.eval_shape(evaluation.step, state, next(iter(evaluation.batches())))
  assert out['found_boxes'].shape[0] == 2 and out['index'].shape == (2,)


@pytest.mark.parametrize('name', ['nuscenes_r50', 'nuscenes_vov', 'nuscenes_lidar', 'nuscenes_camera'])
def test_variants_build_the_published_networks(name):
  config = settings.get_config(name)
  network = nuscenes_experiment.build_model(config)
  assert (network.camera is None, network.lidar is None) == (name.endswith('lidar'), name.endswith('camera'))
  cells = {'nuscenes_r50': 1080, 'nuscenes_vov': 1440, 'nuscenes_lidar': 1440, 'nuscenes_camera': None}[name]
  assert cells is None or network.lidar.encoder.shape[1:] == (cells, cells)
  config.model.released = True
  if name == 'nuscenes_r50':
    assert nuscenes_experiment.build_model(config).lidar.encoder.shape[1:] == (1024, 1024)
  assert config.train.masked_modal == (name in ('nuscenes_r50', 'nuscenes_vov'))
  assert config.train.epochs - config.train.paste_epochs == (20 if name == 'nuscenes_camera' else 5)


def test_the_official_numbers_of_perfect_detections(folder, tmp_path):
  config = _recipe(folder)
  config.test.submissions = str(tmp_path)
  dataset = NuScenes(folder, nuscenes_set.VERSION)
  tokens = dataset.tokens('mini_val')
  sensors = {'lidar': False, 'cameras': True}
  summarize = nuscenes_experiment._summarize(config, dataset, tokens, 'both', sensors)
  outputs = []
  for index, token in enumerate(tokens):
    objects = dataset.frame(token, 0).objects
    names = list(CLASSES)
    real = np.array([n in names for n in objects.names])
    boxes = np.nan_to_num(objects.boxes[real])[None]
    labels = np.array([[names.index(n) for n in objects.names[real]]])
    shape = labels.shape
    outputs.append(
      {
        'index': np.array([index]),
        'valid': np.array([True]),
        'dropped_points': np.array([3]),
        'dropped_boxes': np.array([0]),
        'found_boxes': boxes,
        'found_labels': labels,
        'found_scores': np.full(shape, 0.5),
        'found_valid': np.ones(shape, bool),
      }
    )
  numbers = summarize(outputs)
  found = [value for name, value in numbers.items() if name.startswith('AP_') and value]
  assert found and all(value > 0.99 for value in found)
  assert numbers['dropped_points'] == 3 * len(tokens)
  assert set(json.loads((tmp_path / 'both.json').read_text())['results']) == set(tokens)


def test_pasting_stops_after_its_epochs(folder, tmp_path):
  config = _recipe(folder, 'nuscenes_lidar')
  config.train.paste_epochs = 1
  with pytest.raises(UserError, match='config.data.database=FOLDER'):
    experiment.experiment(config)
  from jaxpapers.cmt import database

  dataset = NuScenes(folder, nuscenes_set.VERSION)
  database.build(dataset, dataset.tokens('mini_train'), tmp_path / 'objects')
  config.data.database = str(tmp_path / 'objects')
  assert isinstance(experiment.experiment(config).stages[0].batch, Switch)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'stages': ('masked', 'unmasked')}, "config.stages holds 'unmasked'"),
    ({'data.name': 'nuscens'}, "config.data.name='nuscens' is not known"),
    ({'model.start': 'locl'}, "config.model.start='locl' is not known"),
    ({'model.network.sharp': False}, 'needs config.model.network.sharp=True'),
  ],
)
def test_unknown_settings_are_named(change, message):
  config = settings.get_config('test')
  config.update_from_flattened_dict(change)
  with pytest.raises(UserError, match=message):
    experiment.experiment(config)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'data.dir': ''}, 'nuScenes needs --config.data.dir=FOLDER'),
    ({'model.name': 'cmt_r51'}, "config.model.name='cmt_r51' is not known"),
    ({'test.sensors': ('lidar_only',)}, "config.test.sensors holds 'lidar_only'"),
  ],
)
def test_unknown_recipes_are_named(folder, change, message):
  config = _recipe(folder)
  config.update_from_flattened_dict(change)
  with pytest.raises(UserError, match=message):
    experiment.experiment(config)


def test_weights_of_a_whole_model_or_of_its_image_network_are_imported(monkeypatch):
  monkeypatch.setattr(nuscenes_experiment, 'build_model', lambda config: small_model())
  config = settings.get_config('nuscenes_r50')
  config.model.released = True
  variables = jax.tree.map(lambda x: np.full(x.shape, 0.5, np.float32), official.template(small_model()))
  state = official.export_official(variables)
  found = experiment.import_variables(config, state)
  jax.tree.map(np.testing.assert_array_equal, found, variables)
  images = {name: array for name, array in state.items() if name.startswith('img_backbone.')}
  found = experiment.import_variables(config, images)
  assert set(found['params']) == {'camera'} and set(found['params']['camera']) == {'backbone'}
  with pytest.raises(UserError, match='conv9.weight is unexpected'):
    experiment.import_variables(config, {**images, 'img_backbone.conv9.weight': np.zeros(3)})


def test_released_weights_need_their_layout_and_a_published_variant():
  config = settings.get_config('nuscenes_r50')
  with pytest.raises(UserError, match='need --config.model.released=True'):
    experiment.import_variables(config, {'pts_bbox_head.reference_points.weight': np.zeros((900, 3))})
  with pytest.raises(UserError, match='Only the nuscenes variants'):
    experiment.import_variables(settings.get_config('test'), {})
