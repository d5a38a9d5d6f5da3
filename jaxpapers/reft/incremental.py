"""New classes without the old ones' data: what may change, what the base model keeps.

A reconstruction: the paper's abstract names a class-enhanced distillation of the input projections, no more.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpapers.reft import distillation
from jaxpapers.reft.model import RefT, Switches
from jaxpapers.reft.references import per_class, support_centers
from jaxpapers.reft.training import Loss, prediction_loss, targets_of


class Distillation(NamedTuple):
  """Weights of the terms.

  Attributes:
    features: of `distillation.feature_distillation`.
    classes: of `distillation.class_distillation`.
    enhanced: beta, extra weight of pixels like a base class.
  """

  features: jax.Array | float = 0.1
  classes: jax.Array | float = 2.0
  enhanced: jax.Array | float = 1.0


def trained_parts(params: Any, novel: Sequence[int], classes: int) -> Any:
  """1 where incremental training may change a parameter, else 0: input projections, references, novel classes' rows.

  Args:
    params: of `RefT`.
    novel: the new classes.
    classes: of the classifier, without "no object".
  """
  rows = jnp.zeros(classes + 1).at[jnp.asarray(novel)].set(1.0)

  def part(path, leaf):
    names = [str(k.key) for k in path]
    if 'classifier' in names:
      if names[-1] == 'weight':
        return jnp.broadcast_to(rows[:, None], leaf.shape)
      if 'class_embed' in names:
        return jnp.broadcast_to(rows, leaf.shape)
      return jnp.zeros(leaf.shape)
    free = names[0] != 'base' or any(name.startswith('input_') for name in names)
    return jnp.full(leaf.shape, float(free))

  return jax.tree_util.tree_map_with_path(part, params)


def teacher_of(
  model: RefT,
  variables: Mapping[str, Any],
  images: jax.Array,
  masks: jax.Array,
  classes: jax.Array,
  base: Sequence[int],
) -> dict[str, Any]:
  """The frozen base model and the class centres of its projected maps: all that is kept of the base data.

  Args:
    model: the network.
    variables: of the base stage.
    images: [examples, h, w, 3], normalised.
    masks: [examples, h, w], one object each.
    classes: [examples] int.
    base: base classes.

  Returns:
    {'variables': ..., 'centers': per level [base classes, width]}.
  """
  parts = {name: tree['base'] for name, tree in variables.items()}

  def center(example):
    image, mask = example
    pyramid = model.base.apply(parts, image[None], method='encode')
    return [support_centers(x, mask[None])[0] for x in pyramid.projected]

  # One after the other: a batch of all would need the memory of a training step.
  centers = [per_class(x, classes, model.classes)[0] for x in jax.lax.map(center, (images, masks))]
  return {'variables': dict(variables), 'centers': tuple(x[jnp.asarray(base)] for x in centers)}


def incremental_loss(
  model: RefT,
  variables: Mapping[str, Any],
  teacher: Mapping[str, Any],
  batch: Mapping[str, Any],
  active: jax.Array,
  key: jax.Array,
  loss: Loss,
  *,
  novel: Sequence[int],
  weights: Distillation,
  switches: Switches | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """As `training.episode_loss`, and both terms of the distillation; batches hold novel objects alone.

  Source: a reconstruction of the paper's incremental setting.
  """
  shots = batch['support']
  examples = shots['images'], shots['masks'], shots['classes']

  def run(variables):
    return model.apply(variables, batch['images'], examples, switches=switches, method='episode')

  found, pyramid = run(variables)
  targets = targets_of(batch)
  total, metrics, matches = prediction_loss(found, targets, active, key, loss)
  before, seen = run(teacher['variables'])
  before, seen = jax.lax.stop_gradient((before.logits[-1], seen.projected))
  covered = jnp.any(targets.masks.astype(bool) & targets.valid[..., None, None], axis=1)
  features = distillation.feature_distillation(
    pyramid.projected, seen, covered, teacher['centers'], weights.enhanced
  ).mean()
  queries = found.logits.shape[2]
  taken = jnp.where(matches.matched[-1], matches.query[-1], queries)
  free = jax.vmap(lambda q: jnp.ones(queries).at[q].set(0.0, mode='drop'))(taken)
  kept = jnp.asarray([c for c in range(model.classes + 1) if c not in novel])
  labels = distillation.class_distillation(found.logits[-1], before[..., kept], kept, free)
  total += weights.features * features + weights.classes * labels
  return total, {**metrics, 'distillation_features': features, 'distillation_classes': labels}
