"""Binds the settings of configs/vr_quality.py to functions: quality models here, analysis and scanpaths elsewhere."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from jaxpapers.data import ArraySource, batches, evaluation_batches
from jaxpapers.engine import Evaluation, Experiment, Stage, UserError, axis_name, supervised
from jaxpapers.layers.resnet import ResNet18
from jaxpapers.vr_quality import (
  analysis_experiment,
  clips,
  database,
  observers,
  official,
  panoramas,
  report,
  scanpath_experiment,
  splits,
)
from jaxpapers.vr_quality.correlation import agreement
from jaxpapers.vr_quality.losses import plcc_loss
from jaxpapers.vr_quality.model import FORWARD, QualityModel, ThinNet, normalise, plain_network, tile_network
from jaxpapers.vr_quality.rotate import centre_on, rotate_erp
from jaxpapers.vr_quality.viewport import viewport

POINTS = (1, 4, 8, 13)  # seconds of a scanpath that the viewport model sees; the first two fall within 7 s
EARLY = 2


def experiment(config: ml_collections.ConfigDict) -> Experiment:
  """The stages of a variant."""
  tasks = {
    'quality': _quality,
    'analysis': analysis_experiment.experiment,
    'scanpath': scanpath_experiment.experiment,
  }
  if config.task not in tasks:
    raise UserError(f'config.task={config.task!r} is not known; known: {", ".join(tasks)}.')
  try:
    return tasks[config.task](config)
  except ValueError as error:
    raise UserError(str(error)) from error


def import_variables(config: ml_collections.ConfigDict, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Variables of the first model from a state dict under the authors' names, or from torchvision's ResNet-18."""
  model = _model(config, config.models[0])
  read = official.import_backbone if official.is_torchvision(state) else official.import_official
  try:
    return read(state, model)
  except ValueError as error:
    raise UserError(str(error)) from error


def _model(config: ml_collections.ConfigDict, name: str) -> QualityModel:
  """One of 'visibility', 'mean', 'zero_padded' and 'viewport'."""
  if name not in report.NAMES:
    raise UserError(f'config.models holds {name!r}; known: {", ".join(report.NAMES)}.')
  settings = config.model
  network = {'thin': ThinNet, 'resnet18': ResNet18}[settings.network]
  axis = axis_name(config)
  on_tiles = name in ('visibility', 'mean')
  if on_tiles:
    backbone = tile_network(network, settings.bucketed, axis)
  else:
    backbone = plain_network(network, axis)
  pooling = 'visibility' if name in ('visibility', 'zero_padded') else 'mean'
  return QualityModel(backbone, settings.npart if on_tiles else 0, settings.hidden, pooling, frames=config.data.frames)


def _quality(config: ml_collections.ConfigDict) -> Experiment:
  train, test, scenes = _sources(config)
  stages, models = [], {}
  for name in config.models:
    model = models[name] = _model(config, name)
    see = _viewports if name == 'viewport' else _centred
    feed = batches(train, seed=config.seed, batch_size=config.data.batch_size)
    steps = max(1, len(train) // config.data.batch_size) * config.train.epochs
    training = supervised(
      model,
      _loss,
      _optimizer(config, steps),
      inputs=functools.partial(_inputs, see),
      clip_norm=config.train.clip_norm,
      axis_name=axis_name(config),
    )
    evaluation = Evaluation(
      'test', evaluation_batches(test, config.data.batch_size), _evaluate(model, see), _summarize, every=0
    )
    stages.append(Stage(name, steps, feed, training.init, training.step, [evaluation]))

  def draw(states: Mapping[str, Any], page: Any) -> None:
    report.draw(page, models, {n: states[n] for n in models}, scenes, test, functools.partial(_predict, models), POINTS)
    folder = analysis_experiment.data_folder(config.data.dir if config.data.dataset == 'vrvqw' else '')
    if config.real_tables and folder:
      from jaxpapers.vr_quality import analysis_report

      analysis_report.real_tables(page, database.load(folder))

  return Experiment(stages, draw)


def _optimizer(config: ml_collections.ConfigDict, steps: int) -> optax.GradientTransformation:
  settings = config.train
  if settings.schedule == 'cosine':
    return optax.adamw(optax.cosine_decay_schedule(settings.learning_rate, steps), weight_decay=settings.weight_decay)
  per_two_epochs = max(1, 2 * steps // config.train.epochs)
  rate = optax.exponential_decay(settings.learning_rate, per_two_epochs, 0.9, staircase=True)
  return optax.chain(optax.add_decayed_weights(settings.weight_decay), optax.adam(rate))


def _sources(config: ml_collections.ConfigDict):
  """(training source, test source, scenes of the test source or None)."""
  options = config.data
  if options.dataset == 'vrvqw':
    tables = database.load(options.dir)
    split = splits.by_source(tables, config.seed)
    return *(clips.ClipSource(options.dir, tables, part) for part in (split.train, split.test)), None
  if options.dataset != 'synthetic':
    raise UserError(f'config.data.dataset={options.dataset!r} is not known; known: synthetic, vrvqw.')
  made = []
  for part, count in enumerate((options.train_scenes, options.test_scenes)):
    size = options.height, 2 * options.height
    scene = panoramas.scenes(config.seed * 2 + part, count, *size, _photographs(options, part))
    made.append((scene, synthetic_source(scene, observers.observe(scene, config.seed * 2 + part))))
  return made[0][1], made[1][1], made[1][0]


def _photographs(options: ml_collections.ConfigDict, part: int) -> np.ndarray | None:
  """Real panoramas of the training (part 0) or the test (1), no photograph in both; None: synthetic scenes."""
  if not options.photographs:
    return None
  folder = analysis_experiment.data_folder(options.dir)
  if not folder:
    raise UserError('Photographs need --config.data.dir=FOLDER with panoramas_cc0.npz (image [n, height, width, 3]).')
  every = panoramas.photographs(folder, options.height)
  cut = max(1, round(0.75 * len(every)))
  return every[:cut] if part == 0 else every[cut:]


def synthetic_source(scenes: panoramas.Scenes, ratings: observers.Ratings) -> ArraySource:
  """One example per scene and starting point; both exploration times are its targets."""
  count = len(scenes.image)
  path = ratings.path[:, :, :3, POINTS, :].reshape(count * 2, 3, len(POINTS), 2)
  return ArraySource(
    {
      'frames': scenes.image.repeat(2, axis=0)[:, None],
      'start': scenes.start.reshape(-1, 2),
      'mos': ratings.mos.reshape(-1, 2).astype(np.float32),
      'time': np.tile(np.arange(2, dtype=np.int32), (count * 2, 1)),
      'path': path,
    }
  )


def _centred(batch: Mapping[str, jax.Array]) -> jax.Array:
  """[clips, frames, height, width, 3], turned so that the starting viewpoint is at the centre."""

  def turn(frames, start):
    matrix = centre_on(start[0], start[1])
    return jax.vmap(lambda frame: rotate_erp(frame, matrix))(frames)

  return jax.vmap(turn)(batch['frames'], batch['start'])


def _viewports(batch: Mapping[str, jax.Array]) -> jax.Array:
  """[clips, scanpaths * points, side, side, 3], 90 degrees wide at about the panorama's resolution."""
  side = batch['frames'].shape[-2] // 4

  def along(frames, path):
    return jax.vmap(lambda angle: viewport(frames[0], angle[0], angle[1], size=(side, side)))(path.reshape(-1, 2))

  return jax.vmap(along)(batch['frames'], batch['path'])


def _inputs(see: Callable, batch: Mapping[str, jax.Array]) -> tuple[jax.Array]:
  return (normalise(see(batch)),)


def _scores(out: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
  """Predictions [clips, targets]; a viewport model's for 7 s is the mean of the viewports of that time."""
  score = out.score
  if out.frames.shape[1] == 3 * len(POINTS):
    steps = out.frames[..., 0].reshape(len(score), 3, len(POINTS))
    score = jnp.stack([steps[..., :EARLY].mean((1, 2)), steps.mean((1, 2))], axis=-1)
  time = batch['time'] if batch['time'].ndim == 2 else batch['time'][:, None]
  return jnp.take_along_axis(score, time, axis=1)


def _loss(out: Any, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, dict]:
  return plcc_loss(_scores(out, batch).reshape(-1), batch['mos'].reshape(-1)), {}


def _predict(models: Mapping[str, QualityModel], name: str, state: Any, batch: Mapping[str, Any]) -> Any:
  """(Quality, predictions, those with the seam in the middle of the view or None) of a trained model on a batch."""
  if name == 'viewport':
    out = models[name].apply(state.variables(), *_inputs(_viewports, batch))
    return out, _scores(out, batch), None
  (frames,) = _inputs(_centred, batch)
  out = models[name].apply(state.variables(), frames)
  turned = jnp.roll(frames, frames.shape[-2] // 2, axis=-2)
  behind = jnp.tile(-jnp.asarray(FORWARD), (len(frames), 1))
  return out, _scores(out, batch), _scores(models[name].apply(state.variables(), turned, behind), batch)


def _evaluate(model: QualityModel, see: Callable) -> Callable:
  def step(state: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    out = model.apply(state.variables(), *_inputs(see, batch))
    mos = batch['mos'] if batch['mos'].ndim == 2 else batch['mos'][:, None]
    return {'score': _scores(out, batch), 'mos': mos, 'valid': batch['valid']}

  return step


def _summarize(outputs: Iterable[Mapping[str, np.ndarray]]) -> dict[str, float]:
  outputs = list(outputs)
  valid = np.concatenate([o['valid'] for o in outputs])
  score, mos = (np.concatenate([o[k] for o in outputs])[valid].reshape(-1) for k in ('score', 'mos'))
  found = agreement(score, mos)
  return {'srcc': found.srcc, 'plcc': found.plcc, 'rmse': found.rmse, 'krcc': found.krcc}
