"""The recipes on COCO and LVIS: base training, episodes, few-shot or incremental training, cached support, test.

Mask2Former's part follows its public recipe; that of RefT is reconstructed.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from jaxpapers.data import batches, evaluation_batches
from jaxpapers.engine import Evaluation, Experiment, Stage, load_variables
from jaxpapers.layers.norm import FrozenBatchNorm
from jaxpapers.layers.resnet import Bottleneck, ResNet
from jaxpapers.reft import (
  bank_files,
  coco_data,
  coco_report,
  coco_results,
  coco_sets,
  scale_jitter,
  support_cache,
  training,
)
from jaxpapers.reft.episodes import Episodes, episode_batches
from jaxpapers.reft.heads import LinearHead, SupportHead
from jaxpapers.reft.incremental import Distillation, incremental_loss, teacher_of, trained_parts
from jaxpapers.reft.model import Mask2Former, RefT, normalise, resnet50
from jaxpapers.reft.optimizer import mask2former_optimizer
from jaxpapers.reft.pixel_decoder import PixelDecoder
from jaxpapers.reft.transformer import TransformerDecoder

_CENTER_SIDE = 256


def network(options: ml_collections.ConfigDict, classes: int) -> RefT:
  """The network of `config.model`."""
  backbones = {'resnet50': resnet50, 'tiny': _tiny_backbone}
  heads = {'fc': LinearHead, 'support': lambda n: SupportHead(n, options.width)}
  for name, known in (('backbone', backbones), ('head', heads)):
    if options[name] not in known:
      raise ValueError(f'config.model.{name}={options[name]!r} is not known; known: {", ".join(known)}.')
  width = options.width
  base = Mask2Former(
    backbones[options.backbone](),
    PixelDecoder(width, width, options.heads, 4 * width, options.encoder_layers),
    TransformerDecoder(
      heads[options.head](classes), options.queries, width, width, options.heads, 8 * width, options.decoder_layers
    ),
  )
  return RefT(
    base,
    classes,
    options.first_reference,
    options.second_reference,
    options.head == 'support',
    options.heads,
    8 * width,
  )


def _tiny_backbone() -> ResNet:
  return ResNet((1, 1, 1, 1), Bottleneck, 8, (8, 8, 8, 8), (16, 16, 16, 16), norm=FrozenBatchNorm)


def experiment(config: ml_collections.ConfigDict) -> Experiment:
  """The stages of a variant on COCO or LVIS."""
  return _Coco(config).experiment()


def load_model(config: ml_collections.ConfigDict, workdir: str) -> bank_files.Network:
  """The network that a run trained, for banks of support."""
  model = network(config.model, config.model.classes)
  variables = load_variables(workdir, prefer=('incremental', 'few_shot', 'episodes'))
  kept = {name: tree for name, tree in variables.items() if name in ('params', 'frozen')}
  return bank_files.Network(model, kept, config.data.size, lambda x: np.asarray(normalise(x)), ())


class _Coco:
  """The settings, checked, and the data."""

  def __init__(self, config: ml_collections.ConfigDict):
    self.config, options = config, config.coco
    self.sets = coco_sets.few_shot_sets(
      config.data.dir,
      layout=config.data.layout,
      setting=options.setting,
      k=options.shots,
      seed=options.shot_set,
      shots_folder=config.data.shots_dir,
      sampled=options.sampled,
      max_objects=config.data.max_objects,
    )
    self.classes = len(self.sets.split.names)
    if config.model.classes != self.classes:
      raise ValueError(f'config.model.classes={config.model.classes}, but the annotations have {self.classes} classes.')
    if config.data.size % 32:
      raise ValueError(f'config.data.size={config.data.size} must be a multiple of 32.')
    self.model = network(config.model, self.classes)
    self.loss = training.Loss(options.points, average=False)
    self.novel = self.sets.split.novel_classes
    self.base = self.sets.split.base_classes
    self.uses_support = config.model.first_reference or config.model.second_reference or config.model.head == 'support'

  def experiment(self) -> Experiment:
    options, stages = self.config.coco, []
    first = lambda earlier: earlier['base']  # noqa: E731
    if self.config.init_from:
      loaded = load_variables(self.config.init_from, prefer=('base',))
      first = lambda earlier: loaded  # noqa: E731
    else:
      stages.append(self._base())
    last = first
    whole = False
    if self.uses_support and options.episode_steps:
      stages.append(self._episodes('episodes', self.sets.base, options.episode_steps, first, False))
      last, whole = (lambda earlier: earlier['episodes']), True
    incremental = options.setting == 'ifsis'
    name = 'incremental' if incremental else 'few_shot'
    steps = options.few_shot_steps or self._published_steps()
    stages.append(self._episodes(name, self.sets.shots, steps, last, whole, few=True))
    stages.append(self._test(name))

    def draw(states: Mapping[str, Any], page: Any) -> None:
      coco_report.draw(page, [s.name for s in stages], self.sets, options.setting, options.shots)

    return Experiment(stages, draw)

  def _published_steps(self) -> int:
    factor = {'fsis': 500, 'gfsis': 2000, 'ifsis': 500}[self.config.coco.setting]
    return round(factor * self.config.coco.shots**0.5)

  def _optimizer(self, steps: int, drops: tuple[float, ...], backbone: float) -> optax.GradientTransformation:
    settings = self.config.optimizer
    rate = optax.piecewise_constant_schedule(settings.learning_rate, {int(d * steps): 0.1 for d in drops})
    return mask2former_optimizer(rate, weight_decay=settings.weight_decay, clip=settings.clip_norm, backbone=backbone)

  def _active(self, classes: Iterable[int]) -> jax.Array:
    return jnp.zeros(self.classes, bool).at[jnp.asarray(tuple(classes))].set(True)

  def _base(self) -> Stage:
    """The published base recipe on the base classes."""
    config, options = self.config, self.config.coco
    optimizer = self._optimizer(options.base_steps, (0.8889, 0.9630), config.optimizer.backbone)
    jitter = functools.partial(scale_jitter.jitter, max_objects=config.data.max_objects, size=config.data.size)
    feed = batches(
      self.sets.base,
      seed=config.seed,
      batch_size=options.batch_size,
      augment=jitter,
      workers=config.data.workers,
      prefetch=config.data.prefetch,
    )
    objective = training.plain_objective(self.model, self._active(self.base), _prepare, self.loss)

    def init(key, batch, earlier):
      variables = dict(self._fresh(key))
      base = {name: tree['base'] for name, tree in variables.items()}
      return training.fresh_state(base.pop('params'), optimizer, base)

    return Stage('base', options.base_steps, feed, init, training.gradient_step(objective, optimizer))

  def _fresh(self, key: jax.Array) -> Mapping[str, Any]:
    """Variables of the whole network."""

    def both(module, images, masks, classes):
      return module(images, module.support(images, masks, classes))

    side = 64
    args = jnp.zeros((1, side, side, 3)), jnp.zeros((1, side, side)), jnp.zeros(1, jnp.int32)
    return self.model.init(key, *args, method=both)

  def _start(self, key: jax.Array, given: Any, whole: bool, few: bool) -> dict[str, Any]:
    """Variables to start from; `given` is a state or variables, of the base model unless `whole`."""
    given = given if isinstance(given, Mapping) else given.variables()
    given = jax.tree.map(jnp.asarray, dict(given))
    fresh = dict(self._fresh(key))
    if whole:
      variables = given
    else:
      variables = {name: {**tree, 'base': given[name]} if 'base' in tree else tree for name, tree in fresh.items()}
      same = jax.tree.map(lambda a, b: a.shape == b.shape, variables, fresh)
      if not all(jax.tree.leaves(same)):
        raise ValueError('The weights of config.init_from are of another network than config.model says.')
    if few:
      # Their rows may hold what a model trained on all classes knows.
      rows = jnp.zeros(self.classes + 1, bool).at[jnp.asarray(self.novel)].set(True)
      head = variables['params']['base']['decoder']['classifier']
      new = fresh['params']['base']['decoder']['classifier']
      variables = jax.tree.map(lambda x: x, variables)
      variables['params']['base']['decoder']['classifier'] = jax.tree_util.tree_map_with_path(
        functools.partial(_fresh_rows, rows, self.uses_support and self.config.model.head == 'support'), head, new
      )
    return variables

  def _episodes(self, name: str, source: Any, steps: int, given: Callable, whole: bool, few: bool = False) -> Stage:
    config, options = self.config, self.config.coco
    drops = (0.8,)
    optimizer = self._optimizer(steps, drops, 0.0 if few else config.optimizer.backbone)
    plans = Episodes(
      source.objects,
      len(source),
      self.classes,
      batch_size=options.batch_size,
      seed=config.seed + few,
      episode_classes=options.episode_classes or None,
    )
    query = functools.partial(scale_jitter.jitter, max_objects=config.data.max_objects, size=config.data.size)
    support = functools.partial(scale_jitter.jitter_support, size=config.data.size)
    feed = episode_batches(
      source,
      plans,
      query,
      support,
      seed=config.seed + few,
      workers=config.data.workers,
      prefetch=config.data.prefetch,
    )
    incremental = name == 'incremental'
    if incremental:
      optimizer = optax.chain(optimizer, optax.stateless(self._only_trained))
      # All that is kept of the base data. Small images: they become constants of the program that initialises.
      known = [c for c in self.base if np.any(self.sets.base.objects.label == c)]
      side = min(config.data.size, _CENTER_SIDE)
      centers = coco_data.support_set(self.sets.base, options.center_shots, known, side)

    def init(key, batch, earlier):
      variables = self._start(key, given(earlier), whole, few)
      params = variables.pop('params')
      kept = dict(variables)
      if incremental:
        images = support_cache.masked(normalise(centers.images), jnp.asarray(centers.covered))
        masks, classes = jnp.asarray(centers.masks, jnp.float32), jnp.asarray(centers.classes)
        kept['teacher'] = teacher_of(self.model, {'params': params, **variables}, images, masks, classes, self.base)
      return training.fresh_state(params, optimizer, kept)

    def objective(variables, batch, key):
      variables = dict(variables)
      teacher = variables.pop('teacher', None)
      active = batch['active'][0] | self._active(self.base) if incremental else batch['active'][0]
      leak = jnp.mean(batch['same_image'].astype(jnp.float32))
      made = {**_prepare(batch, key), 'support': _support(batch)}
      if incremental:
        weights = Distillation(options.feature_weight, options.class_weight)
        total, metrics = incremental_loss(
          self.model, variables, teacher, made, active, key, self.loss, novel=self.novel, weights=weights
        )
      else:
        total, metrics = training.episode_loss(self.model, variables, made, active, key, self.loss)
      return total, {**metrics, 'support_from_query': leak}

    return Stage(name, steps, feed, init, training.gradient_step(objective, optimizer))

  def _only_trained(self, updates: Any, params: Any) -> Any:
    del params
    return jax.tree.map(jnp.multiply, updates, trained_parts(updates, self.novel, self.classes))

  def _test(self, trained: str) -> Stage:
    """Encodes the support once, a batch of examples a step, and tests with it."""
    config, options = self.config, self.config.coco
    shown = self.novel if options.setting == 'fsis' else tuple(range(self.classes))
    known = [c for c in shown if np.any(self.sets.shots.objects.label == c)]
    examples = coco_data.support_set(self.sets.shots, options.shots, known, config.data.size)
    feed, steps = support_cache.batches(examples, options.support_batch)
    canvas = (options.test_canvas, options.test_canvas)
    tested = evaluation_batches(
      self.sets.test,
      options.test_batch,
      coco_data.evaluation_transform(options.test_long, options.test_short, canvas),
      workers=config.data.workers,
      prefetch=config.data.prefetch,
    )
    active = self._active(shown)

    def evaluate(state, batch):
      images = support_cache.masked(normalise(batch['image']), batch['image_size'])
      variables, support = support_cache.read(state)
      found = self.model.apply(variables, images, support)
      logits = training.without_inactive(found.logits[-1], active)
      pairs = coco_results.best_pairs(logits, 100)
      kept = {name: batch[name] for name in ('image_size', 'size', 'id', 'valid')}
      return {**pairs._asdict(), 'masks': found.masks[-1], 'canvas': jnp.asarray(canvas, jnp.int32), **kept}

    def summarize(outputs):
      return coco_results.evaluate_outputs(outputs, self.sets.truth, self.sets.split, options.setting).metrics

    init = functools.partial(support_cache.start, self.model, len(feed(0)['classes']) * steps, trained)
    step = functools.partial(support_cache.encode, self.model)
    return Stage('support', steps, feed, init, step, [Evaluation('test', tested, evaluate, summarize)])


def _fresh_rows(rows: jax.Array, zero: bool, path: Any, old: jax.Array, new: jax.Array) -> jax.Array:
  """Classifier leaf with new rows where `rows` [classes + 1]; zero rows where the support makes them."""
  fresh = jnp.zeros_like(new) if zero else new
  name = str(path[-1].key)
  if old.ndim == 2 and name == 'weight':
    return jnp.where(rows[:, None], fresh, old)
  if old.shape[-1:] == rows.shape:
    return jnp.where(rows, fresh if name == 'bias' else 0.01 * fresh / (jnp.std(fresh) + 1e-6), old)
  return old


def _prepare(batch: Mapping[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
  """Query images for the network."""
  del key
  return {'images': normalise(batch['image']), 'masks': batch['masks'], 'classes': batch['classes']}


def _support(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """Support examples of an episode, the places of all rows one after the other."""

  def flat(x):
    return x.reshape(-1, *x.shape[2:])

  return {
    'images': normalise(flat(batch['support_images'])),
    'masks': flat(batch['support_masks']).astype(jnp.float32),
    'classes': flat(batch['support_classes']),
  }
