"""What RefT's stages minimise: dense warm-up, set loss, episodes with support.

Objectives are pure functions of (variables, batch, key); `gradient_step` makes an update of any of them.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxpapers.engine.training import TrainState
from jaxpapers.ops import resize
from jaxpapers.reft.heads import INACTIVE
from jaxpapers.reft.losses import PUBLISHED, Targets, Weights, deep_loss, draw_points, map_loss
from jaxpapers.reft.model import Mask2Former, RefT, Switches

Params = Any
Variables = Mapping[str, Any]
Objective = Callable[[Variables, Mapping[str, jax.Array], jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


class Loss(NamedTuple):
  """Settings of the set loss.

  Attributes:
    points: sampled points per mask; 0 takes every pixel of the mask logits.
    weights: of the terms.
    no_object: weight of queries without object in the class term.
    average: divides by the number of predictions of the decoder instead of summing over them.
  """

  points: int = 0
  weights: Weights = PUBLISHED
  no_object: float = 0.1
  average: bool = True


def targets_of(batch: Mapping[str, jax.Array]) -> Targets:
  """Objects of a batch with 'masks' [batch, objects, h, w] and 'classes' [batch, objects], -1 for padding."""
  return Targets(jnp.maximum(batch['classes'], 0), batch['masks'], batch['classes'] >= 0)


def without_inactive(logits: jax.Array, active: jax.Array) -> jax.Array:
  """Logits [..., classes + 1] where classes that are not `active` [classes] take no part."""
  return jnp.where(jnp.append(active, True), logits, INACTIVE)


def prediction_loss(
  found: Any, targets: Targets, active: jax.Array, key: jax.Array, loss: Loss
) -> tuple[jax.Array, dict[str, jax.Array], Any]:
  """Set loss of `Predictions`, its terms summed over the decoder's layers, and the matches."""
  logits = without_inactive(found.logits, active)
  layers, batch = logits.shape[:2]
  if loss.points:
    draw = jax.vmap(lambda k: draw_points(k, batch, targets.labels.shape[1], loss.points))
    points = draw(jax.random.split(key, layers))
    total, terms, matches = deep_loss(logits, found.masks, targets, points, loss.weights, no_object=loss.no_object)
  else:
    total, terms, matches = map_loss(logits, found.masks, targets, loss.weights, no_object=loss.no_object)
  factor = 1.0 / layers if loss.average else 1.0
  metrics = {f'loss_{name}': factor * value.sum() for name, value in terms._asdict().items()}
  return factor * total, {**metrics, 'loss_last': terms.label[-1] + terms.mask[-1] + terms.dice[-1]}, matches


class WarmUp(nn.Module):
  """A class for every pixel of the finer levels: stands in for pre-trained weights.

  Attributes:
    base: whose backbone and pixel decoder learn.
    classes: without background.
    levels: how many, from the finest on.
  """

  base: Mask2Former
  classes: int
  levels: int = 2

  @nn.compact
  def __call__(self, images: jax.Array) -> list[jax.Array]:
    """Images -> class logits [batch, h, w, classes + 1] per level; the last class is background."""
    pyramid = self.base.encode(images)
    return [
      nn.Dense(self.classes + 1, name=f'class_embed{i}')(x)
      for i, x in enumerate(pyramid.levels[: -self.levels - 1 : -1])
    ]


def pixel_labels(masks: jax.Array, classes: jax.Array, size: tuple[int, int], background: int) -> jax.Array:
  """Class of each cell of a coarser map: of the object that covers at least half of it, else background.

  Args:
    masks: [batch, objects, height, width] bool.
    classes: [batch, objects] int, -1 for padding.
    size: (height, width) of the map.
    background: its label.

  Returns:
    [batch, *size] int32.
  """
  chex.assert_equal_shape_prefix([masks, classes], 2)
  share = resize.adaptive_mean(masks.astype(jnp.float32).transpose(0, 2, 3, 1), size)
  share = jnp.where(classes[:, None, None] >= 0, share, 0.0)
  best = jnp.argmax(share, axis=-1)
  label = jnp.take_along_axis(classes[:, None, None], best[..., None], axis=-1)[..., 0]
  return jnp.where(share.max(axis=-1) >= 0.5, label, background)


def warm_up_objective(model: WarmUp, prepare: Callable, background_weight: float = 0.2) -> Objective:
  """Weighted mean cross-entropy over the cells of all levels; `prepare(batch, key)` augments and normalises."""

  def objective(variables, batch, key):
    batch = prepare(batch, key)
    total = 0.0
    for logits in model.apply(variables, batch['images']):
      labels = pixel_labels(batch['masks'], batch['classes'], logits.shape[1:3], model.classes)
      weight = jnp.where(labels == model.classes, background_weight, 1.0)
      nll = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
      total += jnp.sum(weight * nll) / weight.sum()
    return total / model.levels, {}

  return objective


def plain_objective(model: RefT, active: jax.Array, prepare: Callable, loss: Loss) -> Objective:
  """Set loss of the base model alone; variables are those of `model.base`."""
  width = model.base.decoder.width
  nothing = (jnp.zeros((model.classes, width)), jnp.zeros(model.classes, bool)) if model.support_classifier else ()

  def objective(variables, batch, key):
    prepare_key, key = jax.random.split(key)
    batch = prepare(batch, prepare_key)
    found = model.base.apply(variables, batch['images'], *nothing)
    total, metrics, _ = prediction_loss(found, targets_of(batch), active, key, loss)
    return total, metrics

  return objective


def episode_loss(
  model: RefT,
  variables: Mapping[str, Any],
  batch: Mapping[str, jax.Array],
  active: jax.Array,
  key: jax.Array,
  loss: Loss,
  *,
  switches: Switches | None = None,
  keep_row: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Set loss of query images that consult the support of their batch.

  Source: a reconstruction; the set loss is Mask2Former's.

  Args:
    model: the network.
    variables: of `model`.
    batch: 'images', 'masks', 'classes' of the queries and, under 'support', 'images' [examples, h, w, 3], 'masks'
      [examples, h, w] and 'classes' [examples]; all prepared for the network.
    active: [classes] bool, the classes of the episode.
    key: of the sampled points.
    loss: its settings.
    switches: parts that take part.
    keep_row: [classes] 0 or 1, see `SupportHead`.
  """
  shots = batch['support']
  row = () if keep_row is None else (keep_row,)
  examples = shots['images'], shots['masks'], shots['classes']
  found, _ = model.apply(variables, batch['images'], examples, *row, switches=switches, method='episode')
  total, metrics, _ = prediction_loss(found, targets_of(batch), active, key, loss)
  return total, metrics


def gradient_step(objective: Objective, optimizer: optax.GradientTransformation) -> Callable:
  """(state, batch, key) -> (state, metrics) of one update by the gradient of `objective`."""

  def step(state: TrainState, batch: Any, key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
    def scalar(params):
      value, metrics = objective({'params': params, **state.model_state}, batch, key)
      return value, {'loss': value, **metrics}

    (_, metrics), grads = jax.value_and_grad(scalar, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {**metrics, 'grad_norm': optax.tree.norm(grads)}
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics

  return step


def fresh_state(params: Params, optimizer: optax.GradientTransformation, model_state: Any = None) -> TrainState:
  """State before the first update."""
  return TrainState(jnp.zeros((), jnp.int32), params, model_state or {}, optimizer.init(params), None)
