"""Binds the settings of configs/doorping.py to functions. The only file of the room that reads the config."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxpapers.doorping import (
  data,
  dc,
  dd_distilling,
  dd_report,
  defence_lanes,
  defence_suite,
  distilling,
  dsa,
  export,
  lanes,
  matching,
  model,
  report,
  transfer,
  trigger,
  victim_lanes,
  victims,
)
from jaxpapers.doorping.rates import rates
from jaxpapers.engine import Evaluation, Experiment, Stage, UserError

_SHUFFLING, _CURVE, _DEFENCES = range(3)  # branches of the run's key
DISTILLERS = ('dc', 'dd')
Batch = Mapping[str, Any]


def experiment(config: ml_collections.ConfigDict) -> Experiment:
  """Stage `distill` makes the distilled sets of all attacks and seeds, `victims` trains networks on them."""
  try:
    return _Run(config).experiment()
  except ValueError as error:
    raise UserError(str(error)) from error


def _share(batch: Any) -> Any:
  """This host's part of a batch that every host can make."""
  hosts = jax.process_count()
  size = len(jax.tree.leaves(batch)[0])
  if size % hosts:
    raise UserError(f'{size} lanes (attacks times seeds) cannot be shared by {hosts} hosts.')
  rows = slice(size // hosts * jax.process_index(), size // hosts * (jax.process_index() + 1))
  return jax.tree.map(lambda x: x[rows], batch)


class _Run:
  """The settings, checked, and the data."""

  def __init__(self, config: ml_collections.ConfigDict):
    self.config = config
    self.lanes = lanes.lane_list(config.attacks, config.seeds)
    self.images = data.load(config.data.dataset, config.data.dir, config.data.keep, config.seed)
    self.shape = self.images.x_train.shape[1:]
    self._check()
    self.at_once = config.lanes_at_once
    attack = config.attack
    self.mask = self._mask()
    ipc = config.distill.ipc if config.distiller == 'dc' else config.dd.per_class
    self.stacked = lanes.build(
      self.lanes,
      self.images,
      ratio=attack.ratio,
      patch=attack.patch,
      mask=self.mask,
      target=attack.target,
      ipc=ipc,
      max_steps=config.trigger.max_steps,
      start=config.distill.start,
      seed=config.seed,
    )
    options = trigger.TriggerOptions(**config.trigger)
    self.model = self._model(config.network.name)
    self.victim_model = self._model(config.victims.network or config.network.name, transfer.victim_network)
    self.problem = self._problem(self.model, self._dc_recipe(options) if config.distiller == 'dc' else None)
    self.victim_problem = self._problem(self.victim_model, None)
    self.victim_recipe = victims.VictimRecipe(**{k: config.victims[k] for k in victims.VictimRecipe._fields})
    if config.distiller == 'dd':
      self.real = dd_distilling.RealBatches(self.images.y_train, config.dd.batch, self.stacked.seed, config.seed)
      fields = {
        k: config.dd[k] for k in ('per_class', 'blocks', 'epochs', 'start_rate', 'rate', 'decay_epochs', 'fresh')
      }
      self.dd_recipe = dd_distilling.DdRecipe(
        self.images.classes, **fields, epoch_steps=self.real.per_epoch, target=attack.target, trigger=options
      )
    images = ipc * (1 if config.distiller == 'dc' else config.dd.blocks)
    labels = np.arange(self.images.classes, dtype=np.int32)
    self.labels = np.repeat(labels, ipc) if images == ipc else np.tile(np.repeat(labels, ipc), config.dd.blocks)
    self.table = victim_lanes.pairs(self.lanes, config.seeds, config.victims.count)
    self._measured = None
    if config.defences.enabled:
      for name in config.defences.attacks:
        if name not in config.attacks or lanes.CLEAN not in config.defences.attacks:
          raise ValueError(
            f'config.defences.attacks={config.defences.attacks} must hold {lanes.CLEAN!r} and be among config.attacks.'
          )

  def _check(self) -> None:
    """What no function that is called here checks by itself, before any compute."""
    config, images = self.config, self.images
    for name, value, known in (
      ('distiller', config.distiller, DISTILLERS),
      ('distill.start', config.distill.start, lanes.STARTS),
      ('distill.distance', config.distill.distance, matching.DISTANCES),
      ('trigger.clip', config.trigger.clip, trigger.CLIPS[1:]),
      ('dtype', config.dtype, ('float32',)),
      ('parallel', config.parallel, ('jit',)),
    ):
      if value not in known:
        raise ValueError(f'config.{name}={value!r} is not known; known: {", ".join(known)}.')
    if config.lanes_at_once < 0:
      raise ValueError(f'config.lanes_at_once={config.lanes_at_once} must be 0 (all) or more.')
    for name in ('distill.iterations', 'distill.ipc', 'distill.real_batch', 'victims.count', 'evaluation.chunk'):
      group, key = name.split('.')
      if config[group][key] < 1:
        raise ValueError(f'config.{name}={config[group][key]} must be at least 1.')
    if not (np.all(np.isfinite(images.mean)) and np.all(images.std > 0)):
      raise ValueError(f'{images.name} cannot be normalised with mean {images.mean} and deviation {images.std}.')
    if config.attack.ratio == 0 and set(config.attacks) - {lanes.CLEAN}:
      raise ValueError('config.attack.ratio=0 poisons no image: give a larger ratio, or config.attacks=("clean",).')
    if config.distiller == 'dd' and config.victims.network not in ('', config.network.name):
      raise ValueError('Victims of DD train through its stored steps: config.victims.network must be left empty.')
    if config.attack.svhn_published and (images.name != 'svhn' or set(config.attacks) - {lanes.CLEAN, 'naive'}):
      raise ValueError('config.attack.svhn_published is what the authors do to svhn under the attack naive alone.')

  def _mask(self) -> np.ndarray:
    """[height, width, channels], 1 where the trigger is."""
    size = self.config.attack.patch
    if not self.config.attack.svhn_published:
      # The shorter side: the patch has to fit both ways.
      trigger.patch_slice(min(self.shape[:2]), size)
      return trigger.patch_mask(self.shape, size)
    return (trigger.stamp_pixels_svhn_published(np.zeros((1, *self.shape), np.uint8), size)[0] > 0).astype(np.float32)

  def _dc_recipe(self, options: trigger.TriggerOptions) -> dc.Recipe:
    given = self.config.distill
    outer, inner = given.outer, given.inner
    if not (outer and inner):
      outer, inner = dc.loops(given.ipc)
    fields = ('real_batch', 'rate', 'momentum', 'net_rate', 'distance', 'classes_at_once')
    shared = {name: given[name] for name in fields}
    return dc.Recipe(self.images.classes, outer, inner, trigger=options, **shared)

  def _model(self, name: str, make: Callable[..., model.Network] = model.network) -> model.Network:
    """The network, checked against the images."""
    options = {k: v for k, v in self.config.network.items() if k != 'name'}
    if name == 'alexnet':
      options = {key: options[key] for key in ('init_name', 'patches')}
    elif name != 'convnet':
      options = {'patches': options['patches']}
    elif options['head'] != 'two':
      raise ValueError("config.network.head='one' has no hidden linear layer, which attacks and defences look at.")
    elif options['norm'] == 'batchnorm':
      raise ValueError("config.network.norm='batchnorm' is not distilled here; take another norm.")
    made = make(name, self.images.classes, **options)
    try:
      jax.eval_shape(lambda k: model.init_params(made, k, self.shape), jax.random.key(0))
    except ValueError as error:
      raise ValueError(str(error).splitlines()[0]) from error
    return made

  def _problem(self, made: model.Network, recipe: dc.Recipe | None) -> distilling.Problem:
    images, strategy = self.images, self.config.distill.augment
    size = self.config.attack.patch
    where = tuple(trigger.patch_slice(length, size) for length in self.shape[:2])
    if self.config.attack.svhn_published:
      where = (slice(None), slice(None))

    def pool(index):
      # Inside the trace, so that nothing is bound to a device before the engine compiles.
      return trigger.normalise(jnp.asarray(images.x_train)[index].astype(jnp.float32), images.mean, images.std)

    return distilling.Problem(
      made.apply,
      functools.partial(made.apply, method='penultimate'),
      lambda key: model.init_params(made, key, self.shape),
      pool,
      self.mask,
      where,
      recipe,
      dsa.siamese(strategy.split('_')) if strategy else None,
    )

  def _key(self, branch: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(self.config.seed), branch)

  def experiment(self) -> Experiment:
    evaluations = []
    if self.config.curve.every:
      evaluations = [Evaluation('curve', self._test_set, self._curve, self._curve_metrics, self.config.curve.every)]
    distill = self._dc_stage(evaluations) if self.config.distiller == 'dc' else self._dd_stage(evaluations)
    return Experiment([distill, self._victims_stage()], self._draw)

  def _dc_stage(self, evaluations: list[Evaluation]) -> Stage:
    options = self.config.distill

    def init(key, batch, earlier):
      del earlier
      return distilling.start(self.problem, lanes.Lanes(**batch), key, options.start, options.iterations)

    def step(state, batch, key):
      return distilling.step(self.problem, state, lanes.Lanes(**batch), key, self.at_once)

    return Stage('distill', options.iterations, lambda step: _share(self.stacked._asdict()), init, step, evaluations)

  def _dd_stage(self, evaluations: list[Evaluation]) -> Stage:
    iterations = self.config.dd.iterations or self.config.dd.real_epochs * self.real.per_epoch

    def batch(step):
      return _share({'lanes': self.stacked, 'real': self.real(step)})

    def init(key, batch, earlier):
      del earlier
      return dd_distilling.start(self.problem, self.dd_recipe, batch['lanes'], key, iterations)

    def step(state, batch, key):
      return dd_distilling.step(self.problem, self.dd_recipe, state, batch['lanes'], batch['real'], key, self.at_once)

    return Stage('distill', iterations, batch, init, step, evaluations)

  def _victims_stage(self) -> Stage:
    config = self.config
    epochs = self.victim_recipe.epochs + 1
    per_step = min(config.victims.epochs_per_step, epochs)
    steps = -(-epochs // per_step) if config.distiller == 'dc' else 1

    def init(key, batch, earlier):
      del batch
      return self._victims(earlier['distill'], key, config.victims.count, real=True)

    def step(state, batch, key):
      del batch, key
      if config.distiller == 'dc':
        state = self._train(state, per_step)
      return state, {'epoch': state.epoch.astype(jnp.float32)}

    def predict(state, batch):
      return self._predict(state, self.table, batch)

    def metrics(outputs):
      shown = ('cta', 'asr_raw', 'asr_clipped', 'asr_uint8', 'control_clean_raw', 'control_clean_uint8')
      found = self._measured = self._rates(next(iter(outputs)), self.table)
      return {f'{a}/{n}': float(row[n].mean()) for a, row in found.items() for n in shown if n in row}

    test = Evaluation('test', self._test_set, predict, metrics)
    return Stage('victims', steps, lambda step: _share({'seed': self.stacked.seed}), init, step, [test])

  def _victims(self, distilled: Any, key: jax.Array, count: int, real: bool) -> victim_lanes.VictimState:
    """Victims of the distilled sets, and if `real` of as many clean real images by seed; those of DD are trained."""
    seeds = self.stacked.seed
    numbers = np.arange(self.config.seeds, dtype=np.int32) if real else np.zeros(0, np.int32)
    if self.config.distiller == 'dd':
      chosen = dd_distilling.real_blocks(self.images, self.dd_recipe, self.config.seeds, self.config.seed)
      chosen = chosen[: len(numbers)]
      params = dd_distilling.victims(self.problem, self.dd_recipe, distilled, seeds, chosen, count, key, self.at_once)
      sets, triggers = distilled.blocks.images.reshape(len(seeds), -1, *self.shape), distilled.trigger
      trained = victims.Victim(params, {})
      return victim_lanes.VictimState(jnp.ones((), jnp.int32), trained, sets, triggers)
    start = lanes.real_start(self.images, self.config.distill.ipc, numbers, self.config.seed)
    real_sets = self.problem.pool(start.reshape(-1)).reshape(len(numbers), len(self.labels), *self.shape)
    sets = jnp.concatenate([distilled.distilled.images, real_sets])
    return victim_lanes.start(
      self.victim_problem.init, sets, distilled.distilled.trigger, jnp.concatenate([seeds, numbers]), count, key
    )

  def _train(self, state: victim_lanes.VictimState, epochs: int) -> victim_lanes.VictimState:
    # Not the step's key: what an epoch does must not depend on how many epochs make a step.
    return victim_lanes.train(
      self.victim_problem, state, self.labels, self.victim_recipe, epochs, self._key(_SHUFFLING), self.at_once
    )

  def _test_set(self) -> list[Batch]:
    return [_share(victim_lanes.test_set(self.images, self._chunk, jax.device_count()))]

  @property
  def _chunk(self) -> int:
    return min(self.config.evaluation.chunk, len(self.images.y_test))

  def _predict(self, state: victim_lanes.VictimState, table: victim_lanes.Pairs, batch: Batch) -> dict[str, jax.Array]:
    images = self.images
    shown = trigger.normalise(batch['image'].astype(jnp.float32), images.mean, images.std)
    without, triggered = victim_lanes.predictions(
      self.victim_problem if self.config.distiller == 'dc' else self.problem,
      state.victims.params,
      state.trigger,
      shown.reshape(-1, self._chunk, *self.shape),
      table,
      images.mean,
      images.std,
      self.at_once,
    )
    return {'without': without, 'triggered': triggered, 'label': batch['label'], 'valid': batch['valid']}

  def _rates(self, found: Mapping[str, np.ndarray], table: victim_lanes.Pairs) -> dict[str, dict[str, np.ndarray]]:
    valid = np.asarray(found['valid'])
    without, triggered = (np.asarray(found[name])[..., valid] for name in ('without', 'triggered'))
    labels = np.asarray(found['label'])[valid]
    return rates(without, triggered, labels, self.lanes, table, self.config.attack.target)

  @property
  def _own(self) -> victim_lanes.Pairs:
    table = victim_lanes.pairs(self.lanes, self.config.seeds, self.config.curve.victims)
    return victim_lanes.Pairs(*(column[table.role == victim_lanes.OWN] for column in table))

  def _curve(self, state: Any, batch: Batch) -> dict[str, jax.Array]:
    """Predictions of fresh victims of the distilled sets as they are now."""
    found = self._victims(state, self._key(_CURVE), self.config.curve.victims, real=False)
    if self.config.distiller == 'dc':
      found = self._train(found, self.victim_recipe.epochs + 1)
    return self._predict(found, self._own, batch)

  def _curve_metrics(self, outputs: Any) -> dict[str, float]:
    found = self._rates(next(iter(outputs)), self._own)
    shown = ('cta', 'asr_raw', 'asr_uint8')
    means = {f'{a}/{n}': float(row[n].mean()) for a, row in found.items() for n in shown}
    return means | {f'{a}/{n}_sd': float(row[n].std()) for a, row in found.items() for n in shown}

  def _draw(self, states: Mapping[str, Any], page: Any) -> None:
    config, images = self.config, self.images
    state = states['victims']
    found = self._measured
    if found is None:  # a finished run is not evaluated again when it is resumed
      predict = jax.jit(lambda state, batch: self._predict(state, self.table, batch))
      found = self._rates(predict(state, self._test_set()[0]), self.table)
    rows = defence_suite.class_rows(self.labels)
    distilled = np.asarray(state.images)[: len(self.lanes)][:, rows]
    history = jax.tree.map(np.asarray, states['distill'].history)
    outcomes = self._defend(state) if config.defences.enabled else {}
    target, copied = config.attack.target, {}
    if config.distiller == 'dc' and config.distill.start == 'real':
      copied = lanes.copied(self.lanes, self.stacked, target)
    context = report.Context(self.lanes, found, distilled, history, target, images.mean, images.std, outcomes, copied)
    report.draw(page, context)
    for lane, image in zip(self.lanes, np.asarray(state.trigger), strict=True):
      if lane.attack != lanes.CLEAN:
        name = f'{lane.attack}_seed{lane.seed}'
        page.text(export.export_trigger(page.folder, name, image, self.problem.mask, images.mean, images.std))
    if config.distiller == 'dd':
      dd_report.draw(page, self.lanes, states['distill'], self.dd_recipe, images.mean, images.std)

  def _defend(self, state: victim_lanes.VictimState) -> dict[str, dict[str, Any]]:
    options, images = self.config.defences, self.images
    fields = {k: options[k] for k in options if k in defence_suite.Options._fields}
    made = self.victim_model if self.config.distiller == 'dc' else self.model
    retrain = None
    if self.config.distiller == 'dc':
      retrain = defence_lanes.retrain(made.apply, self.victim_problem.init, self.victim_recipe)
    return defence_suite.defend(
      defence_lanes.network(made),
      defence_lanes.attacked(self.lanes, state, options.attacks, options.victims),
      defence_lanes.trusted(images, options.trusted, options.tested, self.config.seed),
      self.labels,
      self.problem.mask,
      self.config.attack.target,
      self._key(_DEFENCES),
      defence_suite.Options(**fields),
      retrain,
    )
