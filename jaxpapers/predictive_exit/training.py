"""Losses of multi-exit training, noise for the digits, and several trainings that take turns in one program."""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from jaxpapers.engine import Supervised
from jaxpapers.ops.classification import cross_entropy


def exit_losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Mean cross entropy of every exit: logits [batch, exits, classes], labels [batch] -> [exits]."""
  chex.assert_rank([logits, labels], [3, 1])
  every = jnp.broadcast_to(labels[:, None], logits.shape[:2])
  return cross_entropy(logits, every).mean(0)


def official_loss(logits: jax.Array, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Plain sum of the cross entropies of all exits and the classifier, the authors' loss."""
  losses = exit_losses(logits, batch['label'])
  return losses.sum(), {'classifier_loss': losses[-1]}


def weighted_loss(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
  """sum of w_k CE_k / sum of w_k (extension E7); weights [exits]."""
  return jnp.sum(weights * exit_losses(logits, labels)) / jnp.sum(weights)


def classifier_loss(logits: jax.Array, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Mean cross entropy of the plain network; logits [batch, classes]."""
  return cross_entropy(logits, batch['label']).mean(), {}


def add_noise(largest: float) -> Callable[[Mapping[str, jax.Array], jax.Array], dict[str, jax.Array]]:
  """(batch, key) -> the batch with Gaussian noise on its images, a deviation per image drawn from U(0, largest)."""

  def augment(batch: Mapping[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
    image = batch['image']
    first, second = jax.random.split(key)
    sigma = jax.random.uniform(first, (image.shape[0], 1, 1, 1), image.dtype, 0.0, largest)
    return {**batch, 'image': image + sigma * jax.random.normal(second, image.shape, image.dtype)}

  return augment


def in_turn(training: Supervised, seeds: int, follow: Callable[[Any, Any], Any] | None = None, earlier_stage: str = ''):
  """`seeds` trainings in one compiled program: step t is the next step of training t mod seeds.

  On CPU a convolution under vmap, or inside a loop, is several times slower than on its own: taking turns keeps the
  program of one training, compiled once.

  Args:
    training: of one network.
    seeds: how many; they differ in their initial values and in the random numbers of their steps.
    follow: (state, state of the earlier stage) -> state to start from.
    earlier_stage: its name.

  Returns:
    Init and step of a state with a leading axis [seeds].
  """

  def init(key, batch, earlier):
    states = jax.lax.map(lambda one: training.init(one, batch, {}), jax.random.split(key, seeds))
    return states if follow is None else follow(states, earlier[earlier_stage])

  def step(state, batch, key):
    turn = jnp.sum(state.step) % seeds
    one = jax.tree.map(lambda x: x[turn], state)
    one, metrics = training.step(one, batch, key)
    return jax.tree.map(lambda all_, x: all_.at[turn].set(x), state, one), metrics

  return Supervised(init, step)
