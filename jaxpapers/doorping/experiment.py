"""Binds the settings of configs/doorping.py to functions. The only file of the room that reads the config."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxpapers.doorping import data, dc, distilling, dsa, matching, model, report, trigger, victim_lanes, victims
from jaxpapers.doorping.lanes import CLEAN, STARTS, Lanes, build, lane_list
from jaxpapers.doorping.rates import rates
from jaxpapers.engine import Evaluation, Experiment, Stage, UserError

_SHUFFLING, _CURVE = range(2)  # branches of the run's key


def experiment(config: ml_collections.ConfigDict) -> Experiment:
  """Stage `distill` makes the distilled sets of all attacks and seeds, `victims` trains networks on them."""
  try:
    return _Run(config).experiment()
  except ValueError as error:
    raise UserError(str(error)) from error


class _Run:
  """The settings, checked, and the data."""

  def __init__(self, config: ml_collections.ConfigDict):
    self.config = config
    if config.parallel != 'jit':
      raise ValueError("Distillation runs its lanes as one global program: config.parallel must be 'jit'.")
    self.lanes = lane_list(config.attacks, config.seeds)
    self.images = data.load(config.data.dataset, config.data.dir, config.data.keep, config.seed)
    self._check()
    self.at_once = config.lanes_at_once
    if self.at_once < 0:
      self.at_once = 1 if jax.default_backend() == 'cpu' else 0
    self.shape = self.images.x_train.shape[1:]
    self.stacked = build(
      self.lanes,
      self.images,
      ratio=config.attack.ratio,
      patch=config.attack.patch,
      target=config.attack.target,
      ipc=config.distill.ipc,
      max_steps=config.trigger.max_steps,
      seed=config.seed,
    )
    self.problem = self._problem(config.network, self._recipe())
    self.victim_recipe = victims.VictimRecipe(**{k: config.victims[k] for k in victims.VictimRecipe._fields})
    kind = config.victims.network or config.network.name
    self.victim_problem = self._problem({**config.network.to_dict(), 'name': kind}, self.problem.recipe)
    self.table = victim_lanes.pairs(self.lanes, config.seeds, config.victims.count)

  def _check(self) -> None:
    config, images = self.config, self.images
    for name, value, known in (
      ('distill.start', config.distill.start, STARTS),
      ('distill.distance', config.distill.distance, matching.DISTANCES),
      ('trigger.clip', config.trigger.clip, trigger.CLIPS[1:]),
      ('dtype', config.dtype, ('float32',)),
    ):
      if value not in known:
        raise ValueError(f'config.{name}={value!r} is not known; known: {", ".join(known)}.')
    for name in ('x_train', 'x_test'):
      x = getattr(images, name)
      if x.dtype != np.uint8:
        raise ValueError(f'{images.name}: {name} holds {x.dtype}, not uint8 pixels.')
    if not np.all(np.isfinite(images.mean)) or not np.all(images.std > 0):
      raise ValueError(f'{images.name} cannot be normalised with mean {images.mean} and deviation {images.std}.')
    for name in ('distill.iterations', 'distill.ipc', 'victims.count'):
      group, key = name.split('.')
      if config[group][key] < 1:
        raise ValueError(f'config.{name}={config[group][key]} must be at least 1.')
    if config.attack.ratio == 0 and set(config.attacks) - {CLEAN}:
      raise ValueError('config.attack.ratio=0 poisons no image: use config.attacks=("clean",), or a larger ratio.')

  def _recipe(self) -> dc.Recipe:
    options = self.config.distill
    outer, inner = options.outer, options.inner
    if not (outer and inner):
      outer, inner = dc.loops(options.ipc)
    return dc.Recipe(
      self.images.classes,
      outer,
      inner,
      options.real_batch,
      options.rate,
      options.momentum,
      options.net_rate,
      options.distance,
      trigger.TriggerOptions(**self.config.trigger),
    )

  def _problem(self, options: Mapping[str, Any], recipe: dc.Recipe) -> distilling.Problem:
    """Network and data as the distillation, or the victims, take them."""
    options = dict(options)
    name = options.pop('name')
    patches = options.pop('patches') and jax.default_backend() == 'cpu'
    if name == 'alexnet':
      options = {}
    elif options['norm'] == 'batchnorm':
      raise ValueError('Distillation is not defined here for batch norm; use instancenorm, groupnorm or layernorm.')
    elif options['head'] != 'two':
      raise ValueError("config.network.head='one' has no hidden linear layer, which attacks and defences look at.")
    net = model.network(name, self.images.classes, patches=patches, **options)
    try:
      jax.eval_shape(lambda k: model.init_params(net, k, self.shape), jax.random.key(0))
    except ValueError as error:
      raise ValueError(str(error).splitlines()[0]) from error
    images, strategy = self.images, self.config.distill.augment
    size = self.config.attack.patch

    def pool(index):
      # Inside the trace, so that nothing is bound to a device before the engine compiles.
      return trigger.normalise(jnp.asarray(images.x_train)[index].astype(jnp.float32), images.mean, images.std)

    return distilling.Problem(
      net.apply,
      functools.partial(net.apply, method='penultimate'),
      lambda key: model.init_params(net, key, self.shape),
      pool,
      trigger.patch_mask(self.shape, size),
      (trigger.patch_slice(self.shape[0], size), trigger.patch_slice(self.shape[1], size)),
      recipe,
      dsa.siamese(strategy.split('_')) if strategy else None,
    )

  def experiment(self) -> Experiment:
    config = self.config
    iterations = config.distill.iterations
    classes, ipc = self.images.classes, config.distill.ipc
    labels = np.repeat(np.arange(classes, dtype=np.int32), ipc)
    seeds = np.concatenate([self.stacked.seed, np.arange(config.seeds, dtype=np.int32)])
    epochs = self.victim_recipe.epochs + 1
    per_step = min(config.victims.epochs_per_step, epochs)

    def lanes_of(batch):
      return Lanes(**batch)

    def distill_init(key, batch, earlier):
      del earlier
      return distilling.start(self.problem, lanes_of(batch), key, config.distill.start, iterations)

    def distill_step(state, batch, key):
      return distilling.step(self.problem, state, lanes_of(batch), key, self.at_once)

    def victims_init(key, batch, earlier):
      del batch
      return self._start_victims(earlier['distill'].distilled, seeds, key)

    def shuffling():
      # Not the step's key: what an epoch does must not depend on how many epochs make a step.
      return jax.random.fold_in(jax.random.key(config.seed), _SHUFFLING)

    def victims_step(state, batch, key):
      del batch, key
      state = victim_lanes.train(
        self.victim_problem, state, labels, self.victim_recipe, per_step, shuffling(), self.at_once
      )
      return state, {'epoch': state.epoch.astype(jnp.float32)}

    def victims_predict(state, batch):
      return self._predict(state.victims.params, state.trigger, batch)

    stages = [
      Stage('distill', iterations, lambda step: self.stacked._asdict(), distill_init, distill_step),
      Stage(
        'victims',
        -(-epochs // per_step),
        lambda step: {'set': seeds},
        victims_init,
        victims_step,
        [Evaluation('test', self._test_set, victims_predict, lambda outputs: self._means(self._rates(outputs)))],
      ),
    ]

    def draw(states: Mapping[str, Any], page: Any) -> None:
      found = jax.device_get(jax.jit(victims_predict)(states['victims'], self._test_set()[0]))
      report.draw(page, report.Context(self.lanes, self._rates([found]), self.images, states))

    return Experiment(stages, draw)

  def _test_set(self) -> list[dict[str, np.ndarray]]:
    """The whole test set as one batch, padded to whole chunks."""
    images, chunk = self.images, min(self.config.evaluation.chunk, len(self.images.y_test))
    total = len(images.y_test)
    index = np.resize(np.arange(total), -(-total // chunk) * chunk)
    valid = np.arange(len(index)) < total
    return [{'image': images.x_test[index], 'label': images.y_test[index], 'valid': valid}]

  def _predict(self, params: Any, triggers: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    images, chunk = self.images, min(self.config.evaluation.chunk, len(self.images.y_test))
    shown = trigger.normalise(batch['image'].astype(jnp.float32), images.mean, images.std)
    shown = shown.reshape(-1, chunk, *self.shape)
    without, triggered = victim_lanes.predictions(
      self.victim_problem, params, triggers, shown, self.table, images.mean, images.std, self.at_once
    )
    return {'without': without, 'triggered': triggered, 'label': batch['label'], 'valid': batch['valid']}

  def _rates(self, outputs: Iterable[Mapping[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    (found,) = outputs
    valid = found['valid']
    without, triggered = (found[name][..., valid] for name in ('without', 'triggered'))
    return rates(without, triggered, found['label'][valid], self.lanes, self.table, self.config.attack.target)

  @staticmethod
  def _means(found: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, float]:
    """Means over seeds and victims of what a person looks at first."""
    shown = ('cta', 'asr_raw', 'asr_clipped', 'asr_uint8', 'control_clean_raw', 'control_clean_uint8')
    return {
      f'{attack}/{name}': float(row[name].mean()) for attack, row in found.items() for name in shown if name in row
    }

  def _start_victims(self, distilled: dc.Distilled, seeds: np.ndarray, key: jax.Array) -> victim_lanes.VictimState:
    """Victims of the distilled sets, then of as many clean real images by seed."""
    config = self.config
    tables = dc.class_tables(self.images.y_train, self.images.classes)
    ipc = config.distill.ipc
    rng = np.random.default_rng(config.seed)
    chosen = [
      [row[np.resize(rng.permutation(count), ipc)] for row, count in zip(*tables, strict=True)]
      for _ in range(config.seeds)
    ]
    real = self.problem.pool(jnp.asarray(chosen).reshape(-1)).reshape(config.seeds, -1, *self.shape)
    sets = jnp.concatenate([distilled.images, real])
    return victim_lanes.start(
      self.victim_problem.init, sets, distilled.trigger, jnp.asarray(seeds), config.victims.count, key
    )
