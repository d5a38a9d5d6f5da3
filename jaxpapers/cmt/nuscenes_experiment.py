"""The published recipes on nuScenes, bound to functions."""

import functools
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from jaxpapers import engine
from jaxpapers.cmt import augment, cbgs, coder, data, model, official, optimizer, report, steps
from jaxpapers.cmt.database import Database
from jaxpapers.cmt.evaluation import evaluate_submission
from jaxpapers.cmt.nuscenes import NuScenes
from jaxpapers.cmt.submission import sample_results, write_submission
from jaxpapers.cmt.tables import CAMERAS

MODELS = ('cmt_r50', 'cmt_vov', 'cmt_lidar', 'cmt_camera')
MAX_DETECTIONS = 300
_FOUND = ('boxes', 'scores', 'labels', 'valid')
_NEW = r'^(params|batch_stats)/(lidar|head|camera/neck)/'


def build_model(config: ml_collections.ConfigDict) -> model.CMT:
  """The network of `config.model`; `released` keeps the grid that the authors' weights were trained with."""
  options = config.model
  if options.name not in MODELS:
    raise engine.UserError(f'config.model.name={options.name!r} is not known.{engine.suggest(options.name, MODELS)}')
  settings = {'dtype': jnp.dtype(config.dtype), **options.head}
  if options.name != 'cmt_lidar':
    settings['remat'] = options.remat
  if options.name == 'cmt_r50':
    settings['cells'] = model.RELEASED_COARSE_CELLS if options.released else None
  return getattr(model, options.name)(**settings)


def import_variables(config: ml_collections.ConfigDict, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Variables from the authors' weights, or the image network alone from weights that have nothing else."""
  if not any('pts_bbox_head.' in name for name in state):
    return official.import_official(state, build_model(config), allow_missing=[r'^(?!img_backbone\.)'])
  if not config.model.released:
    raise engine.UserError(
      "The authors' weights need --config.model.released=True: they hold the sizes of boxes in another order, and the "
      'ResNet-50 variant another grid, than this library trains.'
    )
  return official.import_official(state, build_model(config))


def experiment(config: ml_collections.ConfigDict) -> engine.Experiment:
  """One stage, evaluated on the validation split as the official kit does."""
  if not config.data.dir:
    raise engine.UserError(
      'nuScenes needs --config.data.dir=FOLDER, which holds samples/, sweeps/ and the tables (download: nuscenes.org).'
    )
  network = build_model(config)
  detector = steps.Detector(network, groups=config.model.groups, fixed_order=not config.model.released)
  dataset = NuScenes(config.data.dir, config.data.version)
  recipe = _recipe(config, network)
  sensors = {'lidar': network.lidar is not None, 'cameras': network.camera is not None}
  tokens = dataset.tokens(config.data.train_split)
  indices = None
  if config.data.balanced:
    indices = cbgs.resample(cbgs.present_classes(dataset, tokens), np.random.default_rng(config.seed))
  source = data.NuScenesSource(dataset, tokens, sweeps=config.data.sweeps, indices=indices, **sensors)
  per_epoch = max(1, len(source) // config.train.batch_size)
  count = per_epoch * config.train.epochs
  loading = {'workers': config.data.workers, 'prefetch': config.data.prefetch}
  train = data.train_batches(
    source,
    recipe,
    seed=config.seed,
    batch_size=config.train.batch_size,
    database=_database(config),
    paste_steps=per_epoch * config.train.paste_epochs,
    **loading,
  )
  axis = engine.axis_name(config)
  made = engine.supervised(
    detector,
    functools.partial(detector.loss, axis_name=axis),
    _optimizer(config, count),
    inputs=lambda batch: (batch,),
    augment=lambda batch, key: steps.training_batch(detector, batch, key, cut=config.train.grid_mask),
    accumulate=config.train.accumulate,
    axis_name=axis,
    start=_start(config.init_from),
  )
  kept = dataset.tokens(config.data.test_split)
  test = data.NuScenesSource(dataset, kept, sweeps=config.data.sweeps, **sensors)
  evaluations = [
    engine.Evaluation(
      name,
      data.evaluation_batches(test, recipe, config.test.batch_size, **loading),
      _detections(detector, change),
      _summarize(config, dataset, kept, name, sensors),
      config.test.every,
    )
    for name, change in _rows(config, sensors).items()
  ]
  rules = [('kernel|/mu/|/nu/', engine.FSDP)] if config.mesh.fsdp else engine.REPLICATED
  stage = engine.Stage('cmt', count, train, made.init, made.step, evaluations, rules)

  def draw(states: Mapping[str, Any], page: engine.Report) -> None:
    report.nuscenes_report(page, evaluations[0], states['cmt'], recipe.pc_range)

  return engine.Experiment([stage], draw)


def _optimizer(config: ml_collections.ConfigDict, count: int) -> optax.GradientTransformation:
  settings = config.optimizer
  rate = optimizer.published_rate(settings.learning_rate, settings.peak_ratio, count)
  return optimizer.cmt_optimizer(
    rate, optimizer.published_beta1(count), weight_decay=settings.weight_decay, clip=settings.clip_norm
  )


def _recipe(config: ml_collections.ConfigDict, network: model.CMT) -> data.Recipe:
  options = config.data
  fusion = network.lidar is not None and network.camera is not None
  image = None
  if network.camera is not None:
    image = augment.ImageLimits(tuple(options.image_size), tuple(options.resize), options.image_flip)
  return data.Recipe(
    options.max_points,
    options.max_boxes,
    pc_range=tuple(network.head.pc_range),
    bev=augment.BevLimits(options.angle, tuple(options.scale), options.shift, options.flip),
    image=image,
    lidar=network.lidar is not None,
    masked_modal=config.train.masked_modal and fusion,
  )


def _database(config: ml_collections.ConfigDict) -> Database | None:
  """Objects to paste; None where the recipe pastes nothing."""
  if not config.train.paste_epochs:
    return None
  if not config.data.database:
    raise engine.UserError(
      'Pasting needs --config.data.database=FOLDER, which jaxpapers.cmt.database.build writes; '
      '--config.train.paste_epochs=0 trains without.'
    )
  return Database(config.data.database)


def _start(workdir: str) -> Callable | None:
  """Variables of a whole model, or those of an image network alone."""
  if not workdir:
    return None
  loaded = engine.load_variables(workdir)
  alone = 'head' not in loaded['params']
  return lambda drawn: engine.merge_variables(drawn, loaded, allow_missing=[_NEW] if alone else [])


def _rows(config: ml_collections.ConfigDict, sensors: Mapping[str, bool]) -> dict[str, Callable]:
  """{evaluation: what it changes of a batch}."""
  known = {'both': dict, **steps.sensor_rows(len(CAMERAS))} if all(sensors.values()) else {'both': dict}
  for name in config.test.sensors:
    if name not in known:
      raise engine.UserError(f'config.test.sensors holds {name!r}.{engine.suggest(name, known)}')
  return {name: known[name] for name in config.test.sensors}


def _detections(detector: steps.Detector, change: Callable) -> Callable:
  def step(state: engine.TrainState, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    found = detector.detect(state.variables(), change(batch), MAX_DETECTIONS, coder.POST_CENTER_RANGE)
    kept = {name: batch[name] for name in ('index', 'valid', *steps.COUNTS)}
    return {**kept, **steps.found(found)}

  return step


def _summarize(
  config: ml_collections.ConfigDict, dataset: NuScenes, tokens: list[str], name: str, sensors: Mapping[str, bool]
) -> Callable[[Iterable[Mapping[str, np.ndarray]]], dict[str, float]]:
  """Writes the submission and reads the official numbers off it."""

  def summarize(outputs: Iterable[Mapping[str, np.ndarray]]) -> dict[str, float]:
    results, dropped = {}, dict.fromkeys(steps.COUNTS, 0)
    for output in outputs:
      for place in np.flatnonzero(output['valid']):
        token = tokens[int(output['index'][place])]
        frame = dataset.frame(token, 0)
        keep = output['found_valid'][place]
        boxes, scores, labels = (output[f'found_{key}'][place][keep] for key in _FOUND[:3])
        results[token] = sample_results(token, frame.lidar2ego, frame.ego2global, boxes, scores, labels)
        for key in dropped:
          dropped[key] += int(output[key][place])
    folder = config.test.submissions
    with tempfile.TemporaryDirectory() as scratch:
      path = os.path.join(folder or scratch, f'{name}.json')
      if jax.process_index() == 0 or not folder:
        write_submission(path, results, use_camera=sensors['cameras'], use_lidar=sensors['lidar'])
      if config.data.version == 'v1.0-test':
        return {'samples': len(results), **dropped}
      official_numbers = evaluate_submission(dataset, config.data.test_split, path)
    classes = {f'AP_{label}': value for label, value in official_numbers['mean_dist_aps'].items()}
    return {
      'mAP': official_numbers['mean_ap'],
      'NDS': official_numbers['nd_score'],
      **official_numbers['tp_errors'],
      **classes,
      **dropped,
    }

  return summarize
