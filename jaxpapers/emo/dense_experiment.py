"""EMO's settings for detection and segmentation bound to functions."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from jaxpapers import engine
from jaxpapers.data.image import IMAGENET_MEAN, IMAGENET_STD
from jaxpapers.emo import dense_datasets, dense_recipe, dense_report, detection, segmentation
from jaxpapers.emo import detection_targets as targets_of
from jaxpapers.emo.dense_evaluation import (
  DetectionEvaluation,
  SegmentationEvaluation,
  detection_step,
  segmentation_step,
)
from jaxpapers.emo.experiment import build_model as build_backbone
from jaxpapers.emo.model import frozen_mask
from jaxpapers.emo.official_dense import import_dense

NEW_LEAVES = r'^(params|batch_stats)/(neck|head|auxiliary)/'
CLASSIFIER = ('norm', 'pre_head', 'head')  # what a classification checkpoint has beyond the backbone
WHOLE_BACKBONE = 4


def experiment(config: ml_collections.ConfigDict) -> engine.Experiment:
  """One stage that trains the whole model and, with `config.baselines`, the two that it has to beat.

  The baselines are the model before training ('untrained') and neck and head trained on a backbone that keeps its
  random initial weights while its batch norms adapt ('frozen_backbone').
  """
  _check(config)
  sets = dense_datasets.datasets(config)
  parts = {'detection': detection_parts, 'segmentation': segmentation_parts}[config.task](config, sets)
  runs = {'dense': config.frozen_stages}
  if config.baselines:
    runs = {'untrained': config.frozen_stages, 'frozen_backbone': WHOLE_BACKBONE, **runs}
  stages, evaluations = [], {name: parts.evaluation() for name in runs}
  random_start = training(config, parts, config.frozen_stages, '')
  for name, frozen in runs.items():
    steps = 0 if name == 'untrained' else config.train.steps
    made = training(config, parts, frozen, config.init_from if name == 'dense' else '')
    # Every stage that starts from random weights shares one initialisation, and all share the evaluation: each is
    # compiled once.
    init = made.init if name == 'dense' and config.init_from else random_start.init
    stages.append(stage(config, name, init, made.step, evaluations[name], sets.train, steps))

  def write(states: Mapping[str, Any], page: engine.Report) -> None:
    parts.report(page, evaluations, states, sets)

  return engine.Experiment(stages, write)


class Parts(NamedTuple):
  """What a task brings.

  Attributes:
    model: what is trained.
    loss: (outputs, batch) -> (scalar, metrics).
    evaluation: () -> an evaluation with its own memory of the last result.
    report: (page, evaluations by stage, states, sets) -> None.
  """

  model: Any
  loss: Callable
  evaluation: Callable[[], DetectionEvaluation | SegmentationEvaluation]
  report: Callable


def _check(config: ml_collections.ConfigDict) -> None:
  known = {'detection': ('ssdlite', 'retinanet'), 'segmentation': tuple(segmentation.HEADS)}
  if config.task not in known:
    raise engine.UserError(
      f'Unknown config.task={config.task!r}.{engine.suggest(config.task, [*known, "classification"])}'
    )
  if config.head.name not in known[config.task]:
    raise engine.UserError(
      f'Unknown head config.head.name={config.head.name!r} for {config.task}.'
      f'{engine.suggest(config.head.name, known[config.task])}'
    )


def build_model(config: ml_collections.ConfigDict, classes: int) -> Any:
  """The detector or segmenter of `config`."""
  backbone = build_backbone(config, 0, True).clone(frozen_stages=config.frozen_stages, norm_eval=config.norm_eval)
  head = config.head
  if head.name == 'ssdlite':
    return detection.ssdlite(backbone, classes, tuple(head.extra_widths), tuple(head.stages))
  if head.name == 'retinanet':
    return detection.retinanet(backbone, classes, head.width)
  options = {'scale_width': head.scale_width} if head.name == 'semantic_fpn' else {}
  return segmentation.segmenter(backbone, head.name, classes, head.auxiliary, width=head.width, **options)


def import_variables(config: ml_collections.ConfigDict, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Official weights of a detector or segmenter as variables of the model that `config` describes."""
  _check(config)
  return import_dense(state, build_model(config, dense_datasets.num_classes(config)))


def prepare(image: jax.Array) -> jax.Array:
  """uint8 [batch, height, width, 3] -> normalised float32."""
  return (image.astype(jnp.float32) / 255 - jnp.asarray(IMAGENET_MEAN)) / jnp.asarray(IMAGENET_STD)


def anchors_of(config: ml_collections.ConfigDict) -> targets_of.AnchorSet:
  """The anchors of the head for the canvas of `config.data.size`."""
  head = config.head
  stage = head.stages[0] if head.name == 'ssdlite' else 2
  first = tuple(-(-side // 2 ** (stage + 1)) for side in config.data.size)
  if head.name == 'retinanet':
    return targets_of.retinanet_anchors(first)
  return targets_of.ssdlite_anchors(first, tuple(head.strides), tuple(head.minimums), tuple(head.maximums))


def detection_parts(config: ml_collections.ConfigDict, sets: dense_datasets.Datasets) -> Parts:
  """Loss and evaluation of a detector."""
  classes = len(sets.names)
  family = {'ssdlite': targets_of.SSDLITE, 'retinanet': targets_of.RETINANET}[config.head.name]
  anchors = anchors_of(config)
  model = build_model(config, classes)

  def loss(output: detection.HeadOutput, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
    targets = family.targets(
      anchors, anchors.valid(batch['image_size']), batch['boxes'], batch['labels'], batch['truth_valid'], classes
    )
    classification, box = family.losses(output.logits, output.codes, targets, anchors.counts)
    positives = targets.positive.sum(axis=1).astype(jnp.float32).mean()
    metrics = {'classification': classification.sum(), 'box': box.sum(), 'positive_anchors': positives}
    return metrics['classification'] + metrics['box'], metrics

  def detect(variables: Any, batch: Mapping[str, jax.Array]) -> Any:
    output = model.apply(variables, prepare(batch['image']))
    return family.detect(output.logits, output.codes, anchors, batch['image_size'].astype(jnp.float32))

  step = detection_step(detect, bool(config.train.ema_decay))
  return Parts(
    model,
    loss,
    lambda: DetectionEvaluation(step, sets.test, sets.names),
    dense_report.detection,
  )


def segmentation_parts(config: ml_collections.ConfigDict, sets: dense_datasets.Datasets) -> Parts:
  """Loss and evaluation of a segmenter."""
  classes = len(sets.names)
  averaged = bool(config.train.ema_decay)
  model = build_model(config, classes)

  def loss(
    output: segmentation.SegmentationOutput, batch: Mapping[str, jax.Array]
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    metrics = {'head': segmentation.pixel_loss(output.logits, batch['label'])}
    value = metrics['head']
    if output.auxiliary is not None:
      metrics['auxiliary'] = segmentation.pixel_loss(output.auxiliary, batch['label'])
      value += segmentation.AUXILIARY_WEIGHT * metrics['auxiliary']
    return value, metrics

  def logits(variables: Any, image: jax.Array) -> jax.Array:
    return model.apply(variables, prepare(image)).logits

  def predict(state: engine.TrainState, image: jax.Array) -> jax.Array:
    return segmentation.full_size(logits(state.variables(averaged), image), image.shape[1:3]).argmax(axis=-1)

  step = segmentation_step(logits, classes, averaged, on_host=sets.read_label is not None)
  return Parts(
    model,
    loss,
    lambda: SegmentationEvaluation(step, sets.test, sets.names, sets.read_label),
    functools.partial(dense_report.segmentation, predict=predict),
  )


def training(config: ml_collections.ConfigDict, parts: Parts, frozen_stages: int, init_from: str) -> engine.Supervised:
  """Initialisation and step by the recipe in `config`; weights of stages 0..`frozen_stages` do not change."""
  settings = config.train
  return engine.supervised(
    parts.model,
    parts.loss,
    optimizer(config),
    inputs=lambda batch: (prepare(batch['image']),),
    clip_norm=settings.clip_norm or None,
    ema_decay=settings.ema_decay or None,
    accumulate=settings.accumulate,
    axis_name=engine.axis_name(config),
    start=starting_point(init_from),
    frozen=lambda params: frozen_leaves(params, frozen_stages),
  )


def stage(
  config: ml_collections.ConfigDict,
  name: str,
  init: Callable,
  step: Callable,
  evaluation: DetectionEvaluation | SegmentationEvaluation,
  train: Callable,
  steps: int,
) -> engine.Stage:
  """A stage with its evaluation on the test set."""
  rules = [('kernel|/mu/|/nu/|ema/', engine.FSDP)] if config.mesh.fsdp else engine.REPLICATED
  test = engine.Evaluation('test', evaluation.batches, evaluation.step, evaluation.summarize, config.train.eval_every)
  return engine.Stage(name, steps, train, init, step, [test], rules)


def frozen_leaves(params: Mapping[str, Any], frozen_stages: int) -> dict[str, Any]:
  """True for the leaves of frozen stages of the backbone, which no weight decay may change either."""
  held = {name: jax.tree.map(lambda _: False, tree) for name, tree in params.items()}
  return {**held, 'backbone': dict(frozen_mask(params['backbone'], frozen_stages))}


def optimizer(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
  """AdamW with the schedule and the decay rules of the dense recipes."""
  settings = config.optimizer
  rate = dense_recipe.schedule(
    settings.schedule,
    settings.learning_rate,
    max(config.train.steps, 1),
    settings.warmup_steps,
    settings.warmup_factor,
  )
  return dense_recipe.adamw(rate, settings.weight_decay, settings.head_multiplier)


def starting_point(workdir: str) -> Callable | None:
  """Variables of `workdir` in place of the initial ones: of a dense model, or of a classifier's backbone.

  Leaves of neck and heads that `workdir` does not have, or has in another size, keep their initial value and are named.
  """
  if not workdir:
    return None
  loaded = engine.load_variables(workdir, prefer=['dense', 'emo'])
  if 'backbone' not in loaded['params']:
    loaded = {
      collection: {'backbone': {name: leaf for name, leaf in tree.items() if name not in CLASSIFIER}}
      for collection, tree in loaded.items()
    }
  return lambda initial: engine.merge_variables(initial, loaded, allow_missing=[NEW_LEAVES], allow_unused=[NEW_LEAVES])
