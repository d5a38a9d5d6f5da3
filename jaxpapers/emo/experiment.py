"""EMO's settings bound to functions: classification here, dense prediction in dense_experiment.py."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxpapers import engine
from jaxpapers.data import batches, evaluation_batches
from jaxpapers.emo import data, recipe, report
from jaxpapers.emo.model import EMO, VARIANTS, emo
from jaxpapers.emo.official import import_official
from jaxpapers.layers.conv import chunked
from jaxpapers.ops.classification import cross_entropy, top_k_correct
from jaxpapers.ops.mix import mixup_or_cutmix


def experiment(config: ml_collections.ConfigDict) -> engine.Experiment:
  """EMO and, with `config.baseline`, the same network without attention on the same batches."""
  if config.task != 'classification':
    from jaxpapers.emo import dense_experiment

    return dense_experiment.experiment(config)
  if config.baseline and config.init_from:
    raise engine.UserError(
      'config.init_from has no weights for the baseline without attention: add --config.baseline=False.'
    )
  train, test, classes = datasets(config)
  names = {'emo': True, 'no_attention': False} if config.baseline else {'emo': True}
  models = {name: build_model(config, classes, attention) for name, attention in names.items()}
  stages = [classification_stage(config, name, model, train, test) for name, model in models.items()]

  def write(states: Mapping[str, Any], page: engine.Report) -> None:
    batch = next(iter(test()))
    report.classification(page, models, states, batch, int(config.data.image_size))

  return engine.Experiment(stages, write)


def import_variables(config: ml_collections.ConfigDict, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Official weights as variables of the model that `config` describes."""
  if config.task != 'classification':
    from jaxpapers.emo import dense_experiment

    return dense_experiment.import_variables(config, state)
  return import_official(state, build_model(config, data.num_classes(config.data.name), True))


def build_model(config: ml_collections.ConfigDict, classes: int, attention: bool) -> EMO:
  """The network of `config.model`."""
  fields = dict(
    num_classes=classes,
    windows=tuple(config.model.windows),
    kernel_sizes=tuple(config.model.kernel_sizes),
    stem_width=config.model.stem_width,
    partition=config.model.partition,
    drop_path=config.model.drop_path,
    dtype=jnp.dtype(config.dtype),
    axis_name=None,
  )
  if not attention:
    fields['attention'] = False
  if config.model.name:
    if config.model.name not in VARIANTS:
      raise engine.UserError(
        f'config.model.name={config.model.name!r} is no published variant.{engine.suggest(config.model.name, VARIANTS)}'
      )
    return emo(config.model.name, **fields)
  shape = {name: tuple(config.model[name]) for name in ('depths', 'widths', 'expansions', 'head_widths')}
  return EMO(**shape, **fields)


def datasets(config: ml_collections.ConfigDict) -> tuple[Callable, Callable, int]:
  """Training batches, a pass over the test set, and the number of classes."""
  settings = config.data
  train = data.source(settings.name, 'train', settings.dir, settings.image_size, settings.train_size, settings.task)
  test = data.source(settings.name, 'test', settings.dir, settings.image_size, settings.test_size, settings.task)
  transforms = data.transforms(settings.name, settings.image_size, config.augment.kind, config.augment.erasing)
  options = dict(workers=settings.workers, prefetch=settings.prefetch)
  return (
    batches(train, seed=config.seed, batch_size=config.train.batch_size, **transforms.train, **options),
    evaluation_batches(test, config.train.batch_size, **transforms.test, **options),
    data.num_classes(settings.name, settings.task, settings.dir),
  )


def optimizer(config: ml_collections.ConfigDict) -> Any:
  """AdamW with the published warm-up and cosine, and its optional noise."""
  settings, steps = config.optimizer, config.train.steps
  rate = recipe.warmup_cosine(
    settings.learning_rate,
    steps,
    settings.warmup_steps,
    settings.warmup_learning_rate,
    settings.end_learning_rate,
  )
  if settings.noise:
    rate = recipe.noisy(rate, jax.random.key(config.seed), int(0.42 * steps), int(0.9 * steps))
  return recipe.adamw(rate, settings.weight_decay)


def classification_stage(
  config: ml_collections.ConfigDict, name: str, model: EMO, train: Callable, test: Callable
) -> engine.Stage:
  """A stage that trains `model` by the recipe in `config`."""
  settings = config.train
  parts = engine.supervised(
    model,
    recipe.classification_loss(settings.label_smoothing),
    optimizer(config),
    augment=mixing(config, model.num_classes),
    clip_norm=settings.clip_norm or None,
    ema_decay=settings.ema_decay or None,
    accumulate=settings.accumulate,
    axis_name=engine.axis_name(config),
    start=starting_point(config.init_from),
  )
  evaluations = [evaluation(model, test, settings.eval_every, bool(settings.ema_decay), config.chunk)]
  rules = [('kernel|/mu/|/nu/|ema/', engine.FSDP)] if config.mesh.fsdp else engine.REPLICATED
  return engine.Stage(name, settings.steps, train, parts.init, parts.step, evaluations, rules)


def mixing(config: ml_collections.ConfigDict, classes: int) -> Callable | None:
  """Mixup and cutmix inside the step, or None where both are off."""
  mixup_alpha, cutmix_alpha = config.augment.mixup, config.augment.cutmix
  if not mixup_alpha and not cutmix_alpha:
    return None
  share = 0.5 if mixup_alpha and cutmix_alpha else float(bool(cutmix_alpha))

  def mix(batch: Mapping[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
    labels = jax.nn.one_hot(batch['label'], classes)
    images, labels = mixup_or_cutmix(batch['image'], labels, key, mixup_alpha or 1.0, cutmix_alpha or 1.0, share)
    return {**batch, 'image': images, 'label': labels}

  return mix


def starting_point(workdir: str) -> Callable | None:
  """Variables of `workdir` in place of the initial ones; a classifier of another size starts anew."""
  if not workdir:
    return None
  loaded = engine.load_variables(workdir, prefer=['emo'])
  return lambda initial: engine.merge_variables(initial, loaded, allow_missing=['^params/head/'])


def evaluation(model: EMO, test: Callable, every: int, ema: bool, chunk: int = 0) -> engine.Evaluation:
  """Top-1, top-5 and loss over all examples; sums are added up and divided once.

  Args:
    model: EMO with a classifier.
    test: () -> a pass over the test set.
    every: in steps.
    ema: the same for the averaged variables, as `ema_top1` and so on.
    chunk: images at a time, 0 for the whole batch.
  """

  def totals(variables: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    def apply(images: jax.Array) -> jax.Array:
      return model.apply(variables, images)

    logits = (chunked(apply, chunk) if chunk else apply)(batch['image'])
    valid = batch['valid']
    return {
      'top1': top_k_correct(logits, batch['label'], 1, valid),
      'top5': top_k_correct(logits, batch['label'], 5, valid),
      'loss': jnp.sum(jnp.where(valid, cross_entropy(logits, batch['label']), 0.0)),
      'count': jnp.sum(valid),
    }

  def step(state: engine.TrainState, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    if not ema:
      return {name: value[None] for name, value in totals(state.variables(), batch).items()}
    # One body for both sets of variables: half the program to compile.
    both = jax.tree.map(lambda plain, mean: jnp.stack([plain, mean]), state.variables(), state.variables(ema=True))
    return jax.lax.map(lambda variables: totals(variables, batch), both)

  def summarize(outputs: Iterable[Mapping[str, np.ndarray]]) -> dict[str, float]:
    sums: dict[str, Any] = {}
    for output in outputs:
      sums = {name: sums.get(name, 0.0) + np.asarray(value, np.float64) for name, value in output.items()}
    count = sums.pop('count')
    means = {name: value / count for name, value in sums.items()}
    plain = {name: float(value[0]) for name, value in means.items()}
    return plain | ({f'ema_{name}': float(value[1]) for name, value in means.items()} if ema else {})

  return engine.Evaluation('test', test, step, summarize, every)
