"""INVISIBLE: a trigger over the whole image, added to it. Not the published behaviour.

The authors' loss does not hold its target constant, so that it lowers the activation which it means to raise, and they
add their trigger again to images that carry it. Here the target is a constant, and the images are clean ones.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxpapers.doorping.trigger import Penultimate, choose_neurons, pixel_range


class InvisibleOptions(NamedTuple):
  """Of one update; the defaults are those of DC.

  Attributes:
    alpha: the activation shall become alpha times what it is at the start of the call.
    topk: how many units.
    learning_rate: of Adam.
    steps: of Adam.
    weight: of the activation's loss against the size of the trigger, at the start.
    weight_decay: factor of the weight at steps 0, 500, ...
    tau_decay: factor of the free size wherever the largest entry is below it.
  """

  alpha: float = 10.0
  topk: int = 1
  learning_rate: float = 0.08
  steps: int = 100
  weight: float = 1.0
  weight_decay: float = 0.8
  tau_decay: float = 0.9


DC = InvisibleOptions()
DD = InvisibleOptions(learning_rate=0.001, steps=50)


class InvisibleUpdate(NamedTuple):
  """Result of a call.

  Attributes:
    trigger: [1, height, width, channels], to be added.
    before: [topk], activations at entry.
    after: [topk], activations at the end.
    size: largest distance of the trigger from black.
  """

  trigger: jax.Array
  before: jax.Array
  after: jax.Array
  size: jax.Array


def add(images: jax.Array, trigger: jax.Array) -> jax.Array:
  """images + trigger, unclipped as published; [batch, height, width, channels] and [1, height, width, channels]."""
  chex.assert_equal_shape_suffix((images, trigger), 3)
  return images + trigger


def update_invisible(
  penultimate: Penultimate,
  params: Any,
  kernel: jax.Array,
  trigger: jax.Array,
  mean: jax.Array,
  std: jax.Array,
  options: InvisibleOptions = DC,
) -> InvisibleUpdate:
  """Raises the chosen units' activation on the trigger by Adam, and pulls entries far from black back to it.

  Source: the third attack of the authors' code, repaired.

  Args:
    penultimate: (params, images) -> [batch, units], after the nonlinearity.
    params: of the network; constant.
    kernel: [inputs, units] of the layer that gives `penultimate`.
    trigger: [1, height, width, channels], normalised; at first a test image of class 0.
    mean: [channels], of the normalisation.
    std: [channels]; entries up to 1 / min(std) from black are free at first.
    options: see InvisibleOptions.
  """
  chex.assert_rank(trigger, 4)
  black = pixel_range(mean, std)[0]
  neurons = choose_neurons(kernel, options.topk)

  def activation(image):
    return penultimate(params, image)[0, neurons]

  before = activation(trigger)
  target = options.alpha * before
  adam = optax.adam(options.learning_rate)

  def loss_of(image, weight, tau):
    away = jnp.abs(image - black)
    excess = jnp.sum(jnp.where(away > tau, away, 0.0))
    return weight * jnp.mean(jnp.square(activation(image) - target)) + excess

  def step(carry, number):
    image, state, weight, tau = carry
    weight = jnp.where(number % 500 == 0, weight * options.weight_decay, weight)
    updates, state = adam.update(jax.grad(loss_of)(image, weight, tau), state)
    image = optax.apply_updates(image, updates)
    tau = jnp.where(jnp.max(jnp.abs(image - black)) < tau, tau * options.tau_decay, tau)
    return (image, state, weight, tau), None

  start = (trigger, adam.init(trigger), jnp.float32(options.weight), 1.0 / jnp.min(jnp.asarray(std)))
  (image, *_), _ = jax.lax.scan(step, start, jnp.arange(options.steps))
  return InvisibleUpdate(image, before, activation(image), jnp.max(jnp.abs(image - black)))
