"""The scanpath predictor as an experiment: training by video; model, people and chance compared on unseen videos."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from jaxpapers.data import ArraySource, batches, evaluation_batches
from jaxpapers.engine import Evaluation, Experiment, Stage, UserError, axis_name, supervised
from jaxpapers.vr_quality import scanpath_data, scanpath_files, scanpath_report
from jaxpapers.vr_quality.scanpath_data import Scene
from jaxpapers.vr_quality.scanpath_model import ScanpathPredictor, negative_log_likelihood
from jaxpapers.vr_quality.walks import fit, log_likelihood


class Data(NamedTuple):
  """Training and test scenes with their paths as flat arrays.

  Attributes:
    train: scenes.
    test: scenes.
    seeing: the attractors are known, so that a model can be shown them.
  """

  train: list[Scene]
  test: list[Scene]
  seeing: bool


def experiment(config: ml_collections.ConfigDict) -> Experiment:
  """One stage, `scanpath`; a second, `scanpath_seeing`, that is shown the scene, if `config.scanpath.seeing`.

  Raises:
    UserError: for settings or files that cannot be.
  """
  options = config.scanpath
  data = load(config)
  model = ScanpathPredictor(
    options.hidden, options.components, options.history, options.unit, float(data.train[0].paths.shape[1])
  )
  stages = [_stage(config, 'scanpath', model, data, False)]
  if options.seeing:
    if not data.seeing:
      raise UserError('config.scanpath.seeing needs scenes whose attractors are known: use source=synthetic.')
    stages.append(_stage(config, 'scanpath_seeing', model, data, True))

  def draw(states: Mapping[str, Any], page: Any) -> None:
    scanpath_report.draw(page, model, states, data.train, data.test, config.seed)

  return Experiment(stages, draw)


def load(config: ml_collections.ConfigDict) -> Data:
  """The scenes that `config.scanpath.source` names: 'synthetic', 'csv' (scanpathA.csv, ...) or 'npy' (HM_raw).

  Raises:
    UserError: for another source or what the readers find.
  """
  options = config.scanpath
  if options.source == 'synthetic':
    scenes = scanpath_data.synthetic(config.seed, options.scenes, options.observers, options.points)
  elif options.source == 'csv':
    scenes = scanpath_data.recorded(scanpath_files.read_csv(config.data.dir, unequal='pad'))
  elif options.source == 'npy':
    scenes = scanpath_data.recorded(scanpath_files.read_npy(config.data.dir))
  else:
    raise UserError(f'config.scanpath.source={options.source!r} is not known; known: synthetic, csv, npy.')
  train, test = scanpath_data.split_scenes(scenes, config.seed)
  return Data(train, test, options.source == 'synthetic')


def flat(scenes: list[Scene], seeing: bool) -> dict[str, np.ndarray]:
  """{'path' [paths, time, 3], 'length' [paths], and, if `seeing`, 'seen' [paths, time, features]} of all observers."""
  arrays = {
    'path': np.concatenate([scene.paths for scene in scenes]),
    'length': np.concatenate([scene.length for scene in scenes]),
  }
  if seeing:
    paths = jnp.asarray(np.stack([scene.paths for scene in scenes]))
    seen = jax.jit(jax.vmap(lambda values, x: scanpath_data.look_at_map(values)(x)))(
      scanpath_data.scene_maps(scenes), paths
    )
    arrays['seen'] = np.asarray(seen).reshape(*arrays['path'].shape[:2], -1)
  return arrays


def _stage(config, name: str, model: ScanpathPredictor, data: Data, seeing: bool) -> Stage:
  options = config.scanpath
  train, test = ArraySource(flat(data.train, seeing)), ArraySource(flat(data.test, seeing))
  if options.batch_size > len(train):
    raise UserError(f'config.scanpath.batch_size={options.batch_size} exceeds the {len(train)} training paths.')

  def inputs(batch):
    return (batch['path'], batch['seen']) if seeing else (batch['path'],)

  def loss(mixture, batch):
    return jnp.mean(negative_log_likelihood(mixture, batch['path'], batch['length'])), {}

  schedule = optax.cosine_decay_schedule(options.learning_rate, options.steps)
  training = supervised(model, loss, optax.adam(schedule), inputs=inputs, clip_norm=1.0, axis_name=axis_name(config))
  walks = fit(np.asarray(train.arrays['path']), train.arrays['length'])

  def evaluate(state, batch):
    found = negative_log_likelihood(model.apply(state.variables(), *inputs(batch)), batch['path'], batch['length'])
    counted = jnp.arange(1, batch['path'].shape[1]) < batch['length'][:, None]
    each = {'nll': found}
    for label, walk in walks.items():
      density = jax.vmap(log_likelihood, in_axes=(None, 0))(walk, batch['path'])
      each[f'nll {label}'] = -jnp.sum(jnp.where(counted, density, 0), axis=1) / jnp.sum(counted, axis=1)
    return {**each, 'valid': batch['valid']}

  def summarize(outputs):
    outputs = list(outputs)
    valid = np.concatenate([o['valid'] for o in outputs])
    return {
      key.replace(' ', '_'): float(np.concatenate([o[key] for o in outputs])[valid].mean())
      for key in outputs[0]
      if key != 'valid'
    }

  size = min(256, len(test))
  return Stage(
    name,
    options.steps,
    batches(train, seed=config.seed, batch_size=options.batch_size),
    training.init,
    training.step,
    [Evaluation('test', evaluation_batches(test, size), evaluate, summarize)],
  )
