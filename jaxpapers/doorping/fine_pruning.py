"""Fine-pruning: units that sleep on clean images go first, then the rest is tuned (Liu et al., RAID 2018)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxpapers.doorping.defence import Network, success_rates


class Pruning(NamedTuple):
  """What pruning and tuning do to a victim; rates are (clean accuracy, attack success).

  Attributes:
    curve: [units + 1, 2] rates with 0, 1, ... units pruned.
    pruned: number of units pruned.
    tuned: [2] rates after pruning and fine-tuning.
  """

  curve: jax.Array
  pruned: jax.Array
  tuned: jax.Array


def order(features: jax.Array) -> jax.Array:
  """Units [units], the one with the smallest mean activation on clean images first; `features` is [images, units]."""
  chex.assert_rank(features, 2)
  return jnp.argsort(features.mean(axis=0), stable=True)


def keep_mask(units: jax.Array, pruned: jax.Array) -> jax.Array:
  """[units] 0 for the first `pruned` entries of `units`, 1 for the others."""
  return jnp.zeros(units.shape[0]).at[units].set(jnp.arange(units.shape[0]) >= pruned)


def curve(
  network: Network,
  params: Any,
  units: jax.Array,
  features: jax.Array,
  labels: jax.Array,
  triggered_features: jax.Array,
  target: int,
) -> jax.Array:
  """(clean accuracy, attack success) [units + 1, 2] after pruning 0, 1, ... units in the order of `units`.

  Only the head is run again: pruning a unit is setting its feature to 0.
  """

  def one(pruned):
    keep = keep_mask(units, pruned)
    predicted, triggered = (jnp.argmax(network.head(params, x * keep), axis=-1) for x in (features, triggered_features))
    return success_rates(predicted, labels, triggered, target)

  return jax.lax.map(one, jnp.arange(units.shape[0] + 1))


def allowed(accuracy: jax.Array, loss: float = 0.04) -> jax.Array:
  """How many units can go before the clean accuracy falls by `loss`; `accuracy` is [units + 1]."""
  fallen = accuracy <= accuracy[0] - loss
  return jnp.where(jnp.any(fallen), jnp.argmax(fallen) - 1, accuracy.shape[0] - 1)


def tune(
  logits_of: Callable[[Any, jax.Array], jax.Array],
  params: Any,
  images: jax.Array,
  labels: jax.Array,
  epochs: int = 10,
  learning_rate: float = 0.01,
) -> Any:
  """Parameters after full-batch SGD on clean images [batch, height, width, channels] and labels [batch]."""

  def loss(params):
    return optax.softmax_cross_entropy_with_integer_labels(logits_of(params, images), labels).mean()

  def step(params, _):
    return jax.tree.map(lambda p, g: p - learning_rate * g, params, jax.grad(loss)(params)), None

  return jax.lax.scan(step, params, None, length=epochs)[0]


def fine_prune(
  network: Network,
  params: Any,
  images: jax.Array,
  labels: jax.Array,
  test_images: jax.Array,
  test_labels: jax.Array,
  triggered_images: jax.Array,
  target: int,
  *,
  loss: float = 0.04,
  epochs: int = 10,
  learning_rate: float = 0.01,
) -> Pruning:
  """Prunes a victim until its accuracy on the defender's clean images falls, then tunes what is left on them.

  Source: Liu et al., RAID 2018.

  Args:
    network: of the victim.
    params: of the victim.
    images: the defender's clean images [N, height, width, channels], normalised.
    labels: [N] int.
    test_images: [T, height, width, channels].
    test_labels: [T] int.
    triggered_images: the test images with the trigger.
    target: attacked label.
    loss: clean accuracy that may be lost.
    epochs: of tuning.
    learning_rate: of tuning.

  Returns:
    Rates before, along the way and after, all on the test images.
  """
  features, clean, triggered = (network.forward(params, x)[1] for x in (images, test_images, triggered_images))
  units = order(features)
  held = curve(network, params, units, features, labels, features, target)[:, 0]
  pruned = allowed(held, loss)
  keep = keep_mask(units, pruned)

  def logits_of(params, images):
    return network.head(params, network.forward(params, images)[1] * keep)

  tuned = tune(logits_of, params, images, labels, epochs, learning_rate)
  predicted, sent = (jnp.argmax(logits_of(tuned, x), axis=-1) for x in (test_images, triggered_images))
  return Pruning(
    curve(network, params, units, clean, test_labels, triggered, target),
    pruned,
    success_rates(predicted, test_labels, sent, target),
  )
