"""Binds the settings of configs/predictive_exit.py to functions. The only file of the room that reads the config."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from jaxpapers import engine
from jaxpapers.data import ArraySource, batches, evaluation_batches
from jaxpapers.data.image import random_flip
from jaxpapers.predictive_exit import data, platforms, report, training
from jaxpapers.predictive_exit.model import MultiExit, classifier, network
from jaxpapers.predictive_exit.official import import_official


def experiment(config: ml_collections.ConfigDict) -> engine.Experiment:
  """The backbone, then the exits; the report evaluates every policy on the table of per-exit outputs."""
  try:
    return _experiment(config)
  except ValueError as error:
    raise engine.UserError(str(error)) from error


def import_variables(config: ml_collections.ConfigDict, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Variables from a state dict under the authors' or torchvision's names.

  Raises:
    UserError: if they are not those of the configured network.
  """
  if config.seeds != 1:
    raise engine.UserError('Imported weights are one network: use config.seeds=1.')
  classes, channels = data.CLASSES[config.data.name], 1 if config.data.name == 'digits' else 3
  try:
    return import_official(state, _network(config, classes), channels=channels)
  except ValueError as error:
    raise engine.UserError(str(error)) from error


def _network(config: ml_collections.ConfigDict, classes: int) -> MultiExit:
  options: dict[str, Any] = {
    'dtype': jnp.dtype(config.dtype),
    'freeze_backbone': config.freeze_backbone,
    'axis_name': engine.axis_name(config),
  }
  if config.network.startswith('pooled'):
    options['width'] = config.width
  elif config.width != 1.0:
    raise engine.UserError(f'config.width belongs to the pooled networks, not to {config.network}.')
  if config.network == 'resnet34' and config.data.name == 'stl10':
    options['image_size'] = 96
  return network(config.network, classes, **options)


def _experiment(config: ml_collections.ConfigDict) -> engine.Experiment:
  for name in ('backbone', 'exits'):
    if config[name].steps % config.seeds:
      raise engine.UserError(
        f'config.{name}.steps={config[name].steps} must be a multiple of config.seeds={config.seeds}: the trainings '
        'take turns.'
      )
  # A platform that cannot be is refused before anything is trained.
  platforms.load(config.policy.platform, config.policy.constants)
  splits = data.load(config.data.name, config.data.dir, config.data.calibration, config.seed)
  classes = int(max(part['label'].max() for part in splits)) + 1
  model = _network(config, data.CLASSES.get(config.data.name, classes))
  seen = splits.train['image'].shape[1:]
  if seen[:2] != (model.image_size, model.image_size):
    raise engine.UserError(
      f'{config.network} takes images of {model.image_size}x{model.image_size} pixels; {config.data.name} has '
      f'{seen[0]}x{seen[1]}.'
    )
  start = None
  if config.init_from:
    loaded = engine.load_variables(config.init_from, prefer=['exits'])

    def start(variables):
      # The first stage holds the backbone alone.
      return engine.merge_variables(
        variables, loaded, allow_unused=() if 'heads' in variables['params'] else ('/heads/',)
      )

  options: dict[str, Any] = {'axis_name': engine.axis_name(config), 'start': start}
  if config.data.name == 'digits':
    options['augment'] = training.add_noise(data.NOISE)
  flip = config.data.name in data.FLIPPED

  def prepared(batch, rng=None):
    image = batch['image'] if rng is None or not flip else random_flip(batch['image'], rng)
    return {**batch, 'image': data.scale(image)}

  settings = config.data
  train = batches(
    ArraySource(splits.train),
    seed=config.seed,
    batch_size=settings.batch_size,
    batch_augment=prepared,
    workers=settings.workers,
    prefetch=settings.prefetch,
  )
  calibration = evaluation_batches(
    ArraySource(splits.calibration), settings.eval_batch_size, batch_transform=prepared, prefetch=settings.prefetch
  )
  stages = []
  if not config.joint and config.backbone.steps:
    plain = classifier(model)
    parts = engine.supervised(plain, training.classifier_loss, optax.adam(config.backbone.learning_rate), **options)
    parts = training.in_turn(parts, config.seeds)
    check = _evaluation(plain, calibration)
    stages.append(engine.Stage('backbone', config.backbone.steps, train, parts.init, parts.step, [check]))
  frozen = None
  if config.freeze_backbone:

    def frozen(params):
      return {name: jax.tree.map(lambda _, held=name == 'backbone': held, tree) for name, tree in params.items()}

  parts = engine.supervised(
    model, training.official_loss, optax.adam(config.exits.learning_rate), frozen=frozen, **options
  )
  if stages:
    parts = training.in_turn(parts, config.seeds, _with_backbone, 'backbone')
  else:
    parts = training.in_turn(parts, config.seeds)
  check = _evaluation(model, calibration)
  stages.append(engine.Stage('exits', config.exits.steps, train, parts.init, parts.step, [check]))

  def draw(states: Mapping[str, Any], page: engine.Report) -> None:
    state = states['exits'] if 'exits' in states else states['imported']
    if not all(x.is_fully_addressable for x in jax.tree.leaves(state)):
      page.text('The weights lie on several hosts: launch/evaluate.py on one host draws the report.')
      return
    report.draw(page, _outputs(config, model, state, splits, prepared), _settings(config))

  return engine.Experiment(stages, draw)


def _with_backbone(state: engine.TrainState, earlier: engine.TrainState) -> engine.TrainState:
  """New exits on the backbone of the first stage."""
  params = {**state.params, 'backbone': earlier.params['backbone']}
  model_state = {'batch_stats': {**state.model_state['batch_stats'], **earlier.model_state['batch_stats']}}
  return state.replace(params=params, model_state=model_state)


def _each(function, state: engine.TrainState):
  """`function(variables)` for every network of a state that `in_turn` made, stacked; imported weights are one."""
  if state.step.ndim == 0:
    return jax.tree.map(lambda x: x[None], function(state.variables()))
  results = [function(jax.tree.map(lambda x, i=i: x[i], state.variables())) for i in range(state.step.shape[0])]
  return jax.tree.map(lambda *x: jnp.stack(x), *results)


def _evaluation(model: Any, calibration: Any) -> engine.Evaluation:
  """Accuracy on the calibration set: of the classifier, and of every exit where there are any."""

  def step(state, batch):
    def right(variables):
      logits = model.apply(variables, batch['image'])
      logits = logits[:, None] if logits.ndim == 2 else logits
      hit = jnp.argmax(logits, -1) == batch['label'][:, None]
      return jnp.sum(hit & batch['valid'][:, None], axis=0)

    return {'right': _each(right, state), 'count': jnp.sum(batch['valid'])}

  def summarize(outputs):
    outputs = list(outputs)
    share = sum(np.asarray(o['right'], np.float64) for o in outputs) / sum(float(o['count']) for o in outputs)
    mean = share.mean(0)
    return {'accuracy': float(mean[-1])} | {f'exit{k + 1:02d}': float(x) for k, x in enumerate(mean[:-1])}

  return engine.Evaluation('calibration', calibration, step, summarize)


def _settings(config: ml_collections.ConfigDict) -> report.Settings:
  policy, official = config.policy, config.official
  return report.Settings(
    drop=policy.drop,
    grid=policy.grid,
    head_shares=tuple(policy.head_shares),
    start=official.start,
    rounds=official.rounds,
    clip_target=official.clip_target,
    quirks=official.quirks,
    mode=config.thresholds.mode,
    platform=policy.platform,
    alphas=tuple(policy.alphas),
    constants=policy.constants,
    scale=policy.scale,
    network=config.network,
  )


def _outputs(config, model: MultiExit, state, splits: data.Splits, prepared) -> report.Outputs:
  """Logits of every exit on the calibration and test sets, and activation levels from training images."""
  apply = jax.jit(model.apply)
  size = config.data.eval_batch_size

  def logits(variables, part):
    rows = []
    for batch in evaluation_batches(ArraySource(part), size, batch_transform=prepared, process=0, processes=1)():
      rows.append(np.asarray(apply(variables, batch['image']))[batch['valid']])
    return np.concatenate(rows)

  noise = training.add_noise(data.NOISE) if config.data.name == 'digits' else None
  # The authors measure thresholds in the mode the model was saved in: with the statistics of the batch.
  measured = model.clone(freeze_backbone=not config.thresholds.train_mode)

  @jax.jit
  def activations(variables, batch, key):
    batch = batch if noise is None else noise(batch, key)
    out, _ = measured.apply(variables, batch['image'], train=True, mutable=['batch_stats'])
    return report.activations(out[:, :-1])

  pipeline = batches(
    ArraySource(splits.train),
    seed=config.seed,
    batch_size=config.data.batch_size,
    batch_augment=prepared,
    process=0,
    processes=1,
  )
  count = report.official_batches(min(config.thresholds.images, len(splits.train['label'])), config.data.batch_size)
  networks = 1 if state.step.ndim == 0 else state.step.shape[0]
  tables = []
  for i in range(networks):
    variables = state.variables() if state.step.ndim == 0 else jax.tree.map(lambda x, i=i: x[i], state.variables())
    rows = [
      activations(variables, pipeline(t), jax.random.fold_in(jax.random.key(config.seed), t)) for t in range(count)
    ]
    levels = {mode: np.mean([np.asarray(row[mode]) for row in rows], axis=0) for mode in rows[0]}
    tables.append((logits(variables, splits.calibration), logits(variables, splits.test), levels))
  return report.Outputs(model, splits, tables)
