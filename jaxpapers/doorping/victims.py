"""Victims: networks trained on a distilled set, and what is measured on them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.doorping.dc import INNER_BATCH, Apply, cross_entropy


class VictimRecipe(NamedTuple):
  """Training on the distilled set.

  Attributes:
    epochs: E; E + 1 epochs are run.
    rate: learning rate; a tenth after the epoch with index E // 2 + 1, when the momentum is cleared too.
    momentum: of SGD.
    weight_decay: added to the gradient before the momentum.
  """

  epochs: int = 300
  rate: float = 0.01
  momentum: float = 0.9
  weight_decay: float = 5e-4


class Victim(NamedTuple):
  """State of the training: parameters and momentum."""

  params: Any
  velocity: Any


def start(params: Any) -> Victim:
  """A victim before its first epoch."""
  return Victim(params, jax.tree.map(jnp.zeros_like, params))


def epoch(
  apply: Apply,
  victim: Victim,
  images: jax.Array,
  labels: jax.Array,
  index: jax.Array,
  recipe: VictimRecipe,
  key: jax.Array,
) -> Victim:
  """The epoch with this index: batches of 256, shuffled; one full batch where there are no more images.

  Args:
    apply: (params, images) -> logits.
    victim: see Victim.
    images: [batch, height, width, channels].
    labels: [batch].
    index: of the epoch, from 0.
    recipe: see VictimRecipe.
    key: of the shuffling.
  """
  drop = recipe.epochs // 2 + 2
  rate = jnp.where(index < drop, recipe.rate, recipe.rate * 0.1)
  velocity = jax.tree.map(lambda v: jnp.where(index == drop, 0.0, v), victim.velocity)

  def update(victim, x, y, valid):
    grads = jax.grad(lambda p: cross_entropy(apply(p, x), y, valid))(victim.params)
    velocity = jax.tree.map(
      lambda v, g, p: recipe.momentum * v + g + recipe.weight_decay * p, victim.velocity, grads, victim.params
    )
    return Victim(jax.tree.map(lambda p, v: p - rate.astype(p.dtype) * v, victim.params, velocity), velocity)

  victim, total = Victim(victim.params, velocity), len(images)
  parts = -(-total // INNER_BATCH)
  if parts == 1:
    return update(victim, images, labels, None)
  order = jax.random.permutation(key, total)
  order = jnp.pad(order, (0, parts * INNER_BATCH - total)).reshape(parts, INNER_BATCH)
  valid = (jnp.arange(parts * INNER_BATCH) < total).astype(images.dtype).reshape(parts, INNER_BATCH)
  body = lambda v, x: (update(v, images[x[0]], labels[x[0]], x[1]), None)  # noqa: E731
  return jax.lax.scan(body, victim, (order, valid))[0]


def train(apply: Apply, params: Any, images: jax.Array, labels: jax.Array, recipe: VictimRecipe, key: jax.Array) -> Any:
  """Params after all E + 1 epochs; arguments as `epoch`."""

  def body(victim, index):
    return epoch(apply, victim, images, labels, index, recipe, jax.random.fold_in(key, index)), None

  return jax.lax.scan(body, start(params), jnp.arange(recipe.epochs + 1))[0].params


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """CTA: share of right predictions; [..., images] against [images] -> [...].

  Raises:
    ValueError: for an empty test set.
  """
  if not len(labels):
    raise ValueError('The test set is empty.')
  return np.mean(np.asarray(predictions) == labels, -1)


def attack_rates(clean: np.ndarray, triggered: np.ndarray, labels: np.ndarray, target: int) -> dict[str, np.ndarray]:
  """Success of a trigger.

  Args:
    clean: predictions [..., images] on the test images.
    triggered: predictions on the same images with the trigger.
    labels: [images].
    target: the trigger label.

  Returns:
    asr: share of all stamped images predicted as the target (target-class images count, as the authors do).
    asr_nontarget: the same over images of other classes.
    clean_as_target: share of images of other classes predicted as the target without a trigger.

  Raises:
    ValueError: for an empty test set, or one of the target class alone.
  """
  other = np.asarray(labels) != target
  if not len(labels) or not other.any():
    raise ValueError('The test set needs images, and some that are not of the target class.')
  hit = np.asarray(triggered) == target
  return {
    'asr': hit.mean(-1),
    'asr_nontarget': hit[..., other].mean(-1),
    'clean_as_target': (np.asarray(clean) == target)[..., other].mean(-1),
  }
