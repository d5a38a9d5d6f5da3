"""Binds the settings of configs/cmt.py to functions."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from jaxpapers import engine
from jaxpapers.cmt import initial, nuscenes_experiment, optimizer, report, scenes, small, steps
from jaxpapers.cmt.local_start import local_start
from jaxpapers.cmt.sensor_evaluation import KEPT, SensorEvaluation

EVALUATION_SEED = 1_000_003


def experiment(config: ml_collections.ConfigDict) -> engine.Experiment:
  """The stages of a variant."""
  known = {'scenes': _scenes, 'nuscenes': nuscenes_experiment.experiment}
  if config.data.name not in known:
    raise engine.UserError(
      f'config.data.name={config.data.name!r} is not known.{engine.suggest(config.data.name, known)}'
    )
  try:
    return known[config.data.name](config)
  except ValueError as error:
    raise engine.UserError(str(error)) from error


def import_variables(config: ml_collections.ConfigDict, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Variables of a published model from a released state dict."""
  if config.data.name != 'nuscenes':
    raise engine.UserError('Only the nuscenes variants of configs/cmt.py have official weights.')
  return nuscenes_experiment.import_variables(config, state)


class Numbers:
  """Batches that hold only the numbers of their scenes: the scenes are made inside the compiled step."""

  def __init__(self, size: int):
    """`size`: scenes in a global batch."""
    self._size = size

  def __call__(self, step: int) -> dict[str, np.ndarray]:
    """{'scene': int32 [local batch]}: every scene is seen once."""
    share = self._size // jax.process_count()
    first = step * self._size + jax.process_index() * share
    return {'scene': np.arange(first, first + share, dtype=np.int32)}


def _scenes(config: ml_collections.ConfigDict) -> engine.Experiment:
  """Training with masked sensors ('masked') and without ('plain') on the same scenes, each tested with lost sensors."""
  setting = scenes.Surround(**config.data.scene)
  options = config.model
  model = small.small_cmt(setting.pc_range, len(scenes.CLASSES), dtype=jnp.dtype(config.dtype), **options.network)
  detector = steps.Detector(model, groups=options.groups, heading=options.heading)
  rows = steps.sensor_rows(len(scenes.CAMERAS))

  def detections(state: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    batch = steps.chosen_row(rows, steps.rendered(setting, batch, EVALUATION_SEED))
    output = detector.detect(state.variables(), batch, config.test.boxes, (*setting.pc_range,))
    return {**{name: batch[name] for name in KEPT}, **steps.found(output)}

  stages, evaluations = [], {}
  for name in config.stages:
    if name not in report.STAGES:
      raise engine.UserError(f'config.stages holds {name!r}.{engine.suggest(name, report.STAGES)}')
    test = evaluations[name] = SensorEvaluation(
      detections, rows, scenes.CLASSES, range(config.test.scenes), config.test.batch_size
    )
    made = _training(config, detector, setting, masked=name == 'masked')
    evaluation = engine.Evaluation('test', test.batches, test.step, test.summarize, config.test.every)
    stages.append(
      engine.Stage(name, config.train.steps, Numbers(config.train.batch_size), made.init, made.step, [evaluation])
    )

  def draw(states: Mapping[str, Any], page: engine.Report) -> None:
    render = functools.partial(steps.rendered, setting, seed=EVALUATION_SEED)
    report.scenes_report(page, detector, states, evaluations, setting, render, _rate(config, config.train.steps))

  return engine.Experiment(stages, draw)


def _training(
  config: ml_collections.ConfigDict, detector: steps.Detector, setting: scenes.Surround, masked: bool
) -> engine.Supervised:
  axis = engine.axis_name(config)
  return engine.supervised(
    detector,
    functools.partial(detector.loss, axis_name=axis),
    _optimizer(config, config.train.steps),
    inputs=lambda batch: (steps.rendered(setting, batch, config.seed),),
    augment=lambda batch, key: steps.training_batch(
      detector, steps.rendered(setting, batch, config.seed), key, masked=masked
    ),
    axis_name=axis,
    start=_start(config, setting),
  )


def _optimizer(config: ml_collections.ConfigDict, steps_in_all: int) -> optax.GradientTransformation:
  settings = config.optimizer
  return optimizer.cmt_optimizer(
    _rate(config, steps_in_all), weight_decay=settings.weight_decay, clip=settings.clip_norm
  )


def _rate(config: ml_collections.ConfigDict, steps_in_all: int) -> Callable:
  settings = config.optimizer
  return optimizer.two_cosines(0.1 * settings.learning_rate, settings.learning_rate, 0.0, steps_in_all, settings.rising)


def _start(config: ml_collections.ConfigDict, setting: scenes.Surround) -> Callable | None:
  """Variables to start from: of another run, or random ones changed as `config.model.start` says."""
  if config.init_from:
    loaded = engine.load_variables(config.init_from)
    return lambda drawn: engine.merge_variables(drawn, loaded)
  network = config.model.network

  def scaled(head: Mapping[str, Any]) -> dict[str, Any]:
    head = initial.scale_embeddings(head, jax.random.key(config.seed))
    return initial.split_subspaces(initial.tie_query_key(head))

  def local(head: Mapping[str, Any]) -> dict[str, Any]:
    return local_start(
      head,
      np.random.default_rng(config.seed),
      img2lidar=scenes.rig(setting)[1],
      image_size=(setting.height, setting.width),
      pc_range=setting.pc_range,
      depths=network.depths,
      heads=network.heads,
      frequencies=small.FREQUENCIES,
      score=config.model.score,
    )

  starts = {'published': None, 'scaled': scaled, 'local': local}
  name = config.model.start
  if name not in starts:
    raise engine.UserError(f'config.model.start={name!r} is not known.{engine.suggest(name, starts)}')
  if name == 'local' and not network.sharp:
    raise engine.UserError("config.model.start='local' needs config.model.network.sharp=True.")
  if starts[name] is None:
    return None
  return lambda drawn: {**drawn, 'params': {**drawn['params'], 'head': starts[name](drawn['params']['head'])}}
