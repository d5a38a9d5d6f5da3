"""Binds the settings of configs/reft.py to functions. The only file of the room that reads the config."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from jaxpapers.data import ArraySource, evaluation_batches
from jaxpapers.engine import Evaluation, Experiment, Stage, UserError, load_variables
from jaxpapers.reft import (
  bank_files,
  base_file,
  coco_experiment,
  fewshapes,
  lanes,
  official,
  report,
  shapes_batches,
  training,
)
from jaxpapers.reft.fewshapes import BASE, NOVEL
from jaxpapers.reft.incremental import teacher_of
from jaxpapers.reft.mini import mini_reft
from jaxpapers.reft.model import RefT, Switches
from jaxpapers.reft.optimizer import mask2former_optimizer
from jaxpapers.reft.shared_precision import average_precision

_LOSS = training.Loss()
_ROOM = len(BASE)


def experiment(config: ml_collections.ConfigDict) -> Experiment:
  """The stages of a variant."""
  if config.parallel != 'jit':
    raise UserError("The set loss is over the whole batch: config.parallel must be 'jit'.")
  tasks = {'shapes': lambda config: _Shapes(config).experiment(), 'coco': coco_experiment.experiment}
  if config.task not in tasks:
    raise UserError(f'config.task={config.task!r} is not known; known: {", ".join(tasks)}.')
  try:
    return tasks[config.task](config)
  except ValueError as error:
    raise UserError(str(error)) from error


def import_variables(config: ml_collections.ConfigDict, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Variables of Mask2Former from a released state dict, for `config.init_from` of a variant on COCO.

  Raises:
    UserError: if they are not those of the configured network.
  """
  if config.task != 'coco':
    raise UserError('Official weights are for the variants on COCO: --config=configs/reft.py:coco_gfsis.')
  try:
    return official.import_official(state, coco_experiment.network(config.model, config.model.classes).base)
  except ValueError as error:
    raise UserError(str(error)) from error


def base_params(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Parameters of the base model that the settings name.

  Raises:
    ValueError: for a file that is missing or of another model.
  """
  start = functools.partial(_initial, _network(config))
  if config.base_file == 'fresh':
    return jax.jit(start)(jax.random.key(config.seed))
  params, _ = base_file.read(config.base_file or base_file.PACKAGED)
  want = jax.eval_shape(start, jax.random.key(0))
  found = jax.tree.map(lambda x: (x.shape, x.dtype), params)
  if found != jax.tree.map(lambda x: (x.shape, x.dtype), want):
    raise ValueError(f'{config.base_file or base_file.PACKAGED} holds the parameters of another model.')
  return params


def load_model(workdir: str) -> bank_files.Network:
  """The network that a run trained, or without a workdir that of the package, for banks of support.

  Raises:
    UserError: if the workdir has no network that a bank can use.
  """
  if not workdir:
    params, _ = base_file.read()
    return _mini_network(mini_reft(), {'params': params})
  from jaxpapers.engine.loop import read_config

  config = read_config(workdir)
  if config.method != 'reft':
    raise UserError(f'{workdir} is a run of {config.method}, not of reft.')
  if config.task == 'coco':
    return coco_experiment.load_model(config, workdir)
  model = _network(config)
  if not config.from_scratch:
    raise UserError(f"{workdir} started from the package's network: leave --workdir out.")
  return _mini_network(model, load_variables(workdir, prefer=('episodes',)))


def _mini_network(model, variables):
  # The package's network knows its base classes by rows of their own: the novel places are free for a bank.
  def scaled(images):
    return shapes_batches.normalise(images.astype(np.float32) / 255.0)

  return bank_files.Network(model, variables, fewshapes.SIDE, scaled, fewshapes.BASE_NAMES)


def _network(config: ml_collections.ConfigDict) -> RefT:
  return mini_reft(layers=config.mini.layers, convolutions=config.mini.convolutions)


def _initial(model, key):
  """Fresh parameters of the whole network."""

  def whole(module, images, masks, classes):
    return module(images, module.support(images, masks, classes))

  side = fewshapes.SIDE
  args = jnp.zeros((1, side, side, 3)), jnp.zeros((1, side, side)), jnp.zeros(1, jnp.int32)
  return model.init(key, *args, method=whole)['params']


class _Shapes:
  """The embedded run."""

  def __init__(self, config: ml_collections.ConfigDict):
    self.config = config
    for group, known in (
      (config.untrained, lanes.VARIANTS),
      (config.few_shot.variants, lanes.VARIANTS),
      (config.incremental.variants, lanes.INCREMENTAL),
    ):
      for name in group:
        if name not in known:
          raise ValueError(f'Variant {name!r} is not known; known: {", ".join(known)}.')
    if config.few_shot.setting not in ('fsis', 'gfsis'):
      raise ValueError(f"config.few_shot.setting is 'fsis' or 'gfsis', not {config.few_shot.setting!r}.")
    if config.shot_sets < 1 or not config.shots or min(config.shots) < 1:
      raise ValueError(f'config.shots={config.shots} and config.shot_sets={config.shot_sets} must be at least 1.')
    self.model = _network(config)
    most = max(*config.shots, config.incremental.shots)
    self.sets = [fewshapes.shots(config.seed * 100 + s, most) for s in range(config.shot_sets)]
    self.test = fewshapes.test_set(config.seed, config.data.test_images)
    self.found: dict[str, dict[str, np.ndarray]] = {}

  def experiment(self) -> Experiment:
    config, stages = self.config, []
    if config.from_scratch:
      stages += self._base_stages()
      given = lambda earlier: earlier['episodes'].params  # noqa: E731
    else:
      params = base_params(config)
      given = lambda earlier: jax.tree.map(jnp.asarray, params)  # noqa: E731
    tables = {}
    if config.untrained:
      tables['untrained'] = self._lanes(config.untrained, lanes.VARIANTS, config.shots)
      stages.append(self._lane_stage('untrained', tables['untrained'], given, 0, None))
    if config.few_shot.variants:
      fsis = config.few_shot.setting == 'fsis'
      tables['few_shot'] = self._lanes(
        config.few_shot.variants, lanes.VARIANTS, config.shots, NOVEL if fsis else BASE + NOVEL, None, config.few_shot
      )
      stages.append(self._lane_stage('few_shot', tables['few_shot'], given, config.few_shot.steps, config.few_shot))
    if config.incremental.variants:
      options = config.incremental
      tables['incremental'] = self._lanes(
        options.variants, lanes.INCREMENTAL, (options.shots,), NOVEL, BASE + NOVEL, options
      )
      stages.append(self._lane_stage('incremental', tables['incremental'], given, options.steps, options))
    if not stages:
      raise ValueError('There is nothing to do: no variants, and from_scratch is off.')

    def draw(states: Mapping[str, Any], page: Any) -> None:
      if config.from_scratch:
        path = page.folder / 'base.npz'
        command = f'python launch/train.py --config=configs/reft.py:{config.variant}'
        base_file.write(str(path), states['episodes'].params, {'command': command, 'seed': config.seed})
      found = {name: self._precision(name, table, states[name]) for name, table in tables.items()}
      report.draw(page, report.Context(self.model, tables, found, states, self.sets, self.test, given(states)))

    return Experiment(stages, draw)

  def _lanes(self, names, variants, shots, classes=BASE + NOVEL, support=None, options=None) -> lanes.Lanes:
    rows = [lanes.Lane(name, k, s) for name in names for k in shots for s in range(self.config.shot_sets)]
    return lanes.Lanes(rows, variants, self.sets, classes, support or classes, options.batch_size if options else 1)

  def _optimizer(self, options, end: float = 0.05) -> optax.GradientTransformation:
    settings = self.config.optimizer
    rate = optax.cosine_decay_schedule(options.learning_rate, max(1, options.steps), end)
    return mask2former_optimizer(
      rate, weight_decay=settings.weight_decay, clip=settings.clip_norm, backbone=settings.backbone
    )

  def _base_stages(self) -> list[Stage]:
    """Dense warm-up, set loss, episodes."""
    config, model = self.config, self.model
    options = config.base
    scenes = fewshapes.base_set(config.seed, options.images)
    active = lanes.active_classes(BASE)

    def stage(name, objective, start, batch):
      optimizer = self._optimizer(options[name])

      def init(key, batch, earlier):
        return training.fresh_state(start(key, batch, earlier), optimizer)

      return Stage(name, options[name].steps, batch, init, training.gradient_step(objective, optimizer))

    def batches(name):
      return shapes_batches.plain_batches(scenes, options[name].batch_size, config.seed)

    warm = training.WarmUp(model.base, len(BASE))

    def start_plain(key, batch, earlier):
      params = _initial(model, key)['base']
      return {**params, **{name: earlier['warm_up'].params['base'][name] for name in ('backbone', 'pixel_decoder')}}

    def start_episodes(key, batch, earlier):
      return {**_initial(model, key), 'base': earlier['plain'].params}

    plain = training.plain_objective(model, active, shapes_batches.augment, _LOSS)
    episodes = shapes_batches.episode_batches(
      shapes_batches.pool_of(scenes), options.episodes.batch_size, BASE, config.seed
    )
    return [
      stage(
        'warm_up',
        training.warm_up_objective(warm, shapes_batches.augment),
        lambda key, batch, earlier: warm.init(key, batch['images'][:1])['params'],
        batches('warm_up'),
      ),
      stage('plain', plain, start_plain, batches('plain')),
      stage('episodes', self._episode_objective(active, options.episodes.drop_row), start_episodes, episodes),
    ]

  def _episode_objective(self, active: jax.Array, drop_row: float) -> training.Objective:
    """Episodes in which each part of RefT takes part at random, so that one base model serves every variant."""
    model = self.model

    def objective(variables, batch, key):
      prepare, part, drop, points = jax.random.split(key, 4)
      batch = shapes_batches.prepare_episode(shapes_batches.split_support(batch, _ROOM), prepare)
      on = jax.random.bernoulli(part, jnp.asarray([0.5, 0.5, 0.8])).astype(jnp.float32)
      # Without support rows a dropped row would leave its class nothing to be known by.
      kept = jax.random.bernoulli(drop, 1.0 - drop_row, (lanes.CLASSES,)) | (on[2] == 0)
      return training.episode_loss(
        model,
        variables,
        batch,
        active,
        points,
        _LOSS,
        switches=Switches(*on),
        keep_row=kept.astype(jnp.float32),
      )

    return objective

  def _lane_stage(self, name: str, table: lanes.Lanes, given: Callable, steps: int, options: Any) -> Stage:
    optimizer = optax.set_to_zero() if options is None else self._optimizer(options)
    distilled = name == 'incremental'

    def init(key, batch, earlier):
      params = given(earlier)
      state = lanes.initial_state(table, params, optimizer, key, NOVEL)
      if not distilled:
        return state
      images, masks, classes = (jnp.asarray(x) for x in self.sets[0])
      known = shapes_batches.normalise(images), masks[:, 0], classes[:, 0]
      return state.replace(model_state={'teacher': teacher_of(self.model, {'params': params}, *known, BASE)})

    weights = {k: options[k] for k in ('feature_weight', 'class_weight')} if distilled else {}
    step = lanes.lane_step(self.model, table, optimizer, _LOSS, novel=NOVEL, distilled=distilled, **weights)
    return Stage(
      name,
      steps,
      lambda step: table.batch(step, self.config.seed),
      init,
      step,
      [self._evaluation(name, table, options.every if distilled else 0)],
    )

  def _evaluation(self, name: str, table: lanes.Lanes, every: int) -> Evaluation:
    source = ArraySource(self.test._asdict())
    batches = evaluation_batches(source, min(100, len(source)))

    def summarize(outputs: Iterable[Mapping[str, np.ndarray]]) -> dict[str, float]:
      per_class = self.found[name] = _per_class(outputs)
      rows = {}
      for lane, values in zip(table.lanes, per_class, strict=True):
        for kind, ids in (('nAP', NOVEL), ('bAP', BASE)):
          rows.setdefault(f'{lane.name}_k{lane.shots}_{kind}', []).append(100.0 * _mean(values, ids))
      return {key: float(np.mean(values)) for key, values in rows.items()}

    return Evaluation('test', batches, lanes.evaluate_lanes(self.model, table), summarize, every)

  def _precision(self, name: str, table: lanes.Lanes, state: Any) -> np.ndarray:
    """[lanes, classes] AP of a stage's final state: from its evaluation, or anew where an earlier process made it."""
    if name not in self.found:
      evaluation = self._evaluation(name, table, 0)
      step = jax.jit(evaluation.step)
      evaluation.summarize([jax.device_get(step(state, batch)) for batch in evaluation.batches()])
    return self.found[name]


def _mean(values: np.ndarray, ids: tuple[int, ...]) -> float:
  """Mean AP over classes that have objects; 0 where none has."""
  chosen = values[list(ids)]
  chosen = chosen[~np.isnan(chosen)]
  return float(chosen.mean()) if len(chosen) else 0.0


def _per_class(outputs: Iterable[Mapping[str, np.ndarray]]) -> np.ndarray:
  """[lanes, classes] AP from the evaluation's outputs."""
  outputs = list(outputs)
  valid = np.concatenate([o['valid'] for o in outputs])
  scores, ious, classes = (np.concatenate([o[k] for o in outputs])[valid] for k in ('scores', 'ious', 'classes'))
  return np.asarray([average_precision(scores[:, i], ious[:, i], classes) for i in range(scores.shape[1])])
