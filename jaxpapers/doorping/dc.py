"""DC: distillation by gradient matching, one outer iteration as one compiled program (Zhao et al., ICLR 2021)."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpapers.doorping import trigger as triggers
from jaxpapers.doorping.matching import gradient_distance, leaf_distances

Apply = Callable[[Any, jax.Array], jax.Array]  # (params, images) -> logits
LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
INNER_BATCH = 256


def loops(ipc: int) -> tuple[int, int]:
  """(outer, inner) steps that the authors pair with `ipc` images per class.

  Raises:
    ValueError: for another number.
  """
  if ipc not in LOOPS:
    raise ValueError(f'No loop lengths are defined for ipc={ipc} ({", ".join(map(str, LOOPS))}); give outer and inner.')
  return LOOPS[ipc]


def cross_entropy(logits: jax.Array, labels: jax.Array, valid: jax.Array | None = None) -> jax.Array:
  """Mean cross entropy over the examples, or over the valid ones ([batch], 0 or 1)."""
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return losses.mean() if valid is None else jnp.sum(losses * valid) / jnp.maximum(jnp.sum(valid), 1)


class ClassTables(NamedTuple):
  """Which images a class has, padded to one length.

  Attributes:
    index: int32 [classes, most].
    count: int32 [classes].
  """

  index: np.ndarray
  count: np.ndarray


def class_tables(labels: np.ndarray, classes: int, most: int | None = None) -> ClassTables:
  """Tables of `labels` [images]; `most` makes those of several label sets equally long.

  Raises:
    ValueError: for a class without an image.
  """
  count = np.bincount(labels, minlength=classes)
  if len(count) > classes or not count.all():
    raise ValueError(f'Every class of 0..{classes - 1} needs an image; images per class: {count.tolist()}.')
  index = np.zeros((classes, most or count.max()), np.int32)
  for label in range(classes):
    found = np.flatnonzero(labels == label)
    index[label, : len(found)] = found
  return ClassTables(index, count.astype(np.int32))


def draw(key: jax.Array, tables: ClassTables, size: int) -> tuple[jax.Array, jax.Array]:
  """Per class `size` images without replacement, or all of them where there are fewer.

  Returns:
    (int32 [classes, size'], float32 validity of the same shape), size' = min(size, longest class).
  """
  classes, most = tables.index.shape
  noise = jax.random.uniform(key, (classes, most))
  noise = jnp.where(jnp.arange(most) < tables.count[:, None], noise, -1.0)
  best, place = jax.lax.top_k(noise, min(size, most))
  return jnp.take_along_axis(jnp.asarray(tables.index), place, 1), (best >= 0).astype(jnp.float32)


class Matching(NamedTuple):
  """Result of `match`.

  Attributes:
    loss: sum of the classes' distances.
    gradient: with respect to the synthetic images.
    layers: {layer: its part of the loss}, where the distance is a sum over layers ('ours').
  """

  loss: jax.Array
  gradient: jax.Array
  layers: Mapping[str, jax.Array]


def layer_distances(real: Any, synthetic: Any, kind: str) -> dict[str, jax.Array]:
  """{layer: its part of the distance} for the layers with weights; {} where the distance is not a sum over layers."""
  if kind != 'ours':
    return {}
  tree = leaf_distances(real['params'], synthetic['params'])
  weights = {name for name, layer in real['params'].items() if any(x.ndim > 1 for x in layer.values())}
  return {name: sum(layer.values()) for name, layer in tree.items() if name in weights}


def match(
  apply: Apply,
  params: Any,
  synthetic: jax.Array,
  real: jax.Array,
  valid: jax.Array | None = None,
  *,
  kind: str = 'ours',
  augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
  keys: jax.Array | None = None,
  classes_at_once: int = 1,
) -> Matching:
  """Gradient distance per class, and its gradient with respect to the synthetic images.

  Source: gradient matching (Zhao et al., ICLR 2021), as in the authors' code.

  Args:
    apply: the network.
    params: of the network.
    synthetic: [classes, images per class, height, width, channels].
    real: [classes, real images, height, width, channels].
    valid: [classes, real images], 1 for real images that count; None: all.
    kind: of distance.
    augment: (key, images) -> images, the same draw for both batches of a class (DSA); None: none.
    keys: [classes] keys for `augment`.
    classes_at_once: classes under one vmap; one by one, the maps of a class stay in a CPU's cache.
  """
  chex.assert_rank([synthetic, real], 5)
  classes = len(synthetic)
  valid = jnp.ones(real.shape[:2], real.dtype) if valid is None else valid

  def gradient(images, label, weight):
    labels = jnp.full(len(images), label)
    return jax.grad(lambda p: cross_entropy(apply(p, images), labels, weight))(params)

  def one(inputs):
    syn, images, weight, label = inputs[:4]

    def change(x):
      return x if augment is None else augment(inputs[4], x)

    wanted = gradient(change(images), label, weight)

    def distance(s):
      given = gradient(change(s), label, None)
      return gradient_distance(wanted, given, kind), layer_distances(wanted, given, kind)

    return jax.value_and_grad(distance, has_aux=True)(syn)

  inputs = (synthetic, real, valid, jnp.arange(classes)) + (() if augment is None else (keys,))
  (losses, layers), gradients = jax.lax.map(one, inputs, batch_size=classes_at_once if classes_at_once > 1 else None)
  return Matching(losses.sum(), gradients, {name: values.sum() for name, values in layers.items()})


def momentum_step(images: jax.Array, velocity: jax.Array, gradient: jax.Array, rate: float, momentum: float):
  """(images, velocity) after SGD with momentum in PyTorch's form, without dampening."""
  velocity = momentum * velocity + gradient
  return images - rate * velocity, velocity


def train_network(
  apply: Apply, params: Any, images: jax.Array, labels: jax.Array, rate: float, epochs: int, key: jax.Array
) -> Any:
  """`epochs` epochs of plain SGD in batches of 256, shuffled; up to 256 images are one full-batch step an epoch.

  Args:
    apply: the network.
    params: start.
    images: [batch, height, width, channels].
    labels: [batch].
    rate: learning rate.
    epochs: number of passes.
    key: of the shuffling.
  """
  total = len(images)
  parts = -(-total // INNER_BATCH)

  def update(params, x, y, valid):
    grads = jax.grad(lambda p: cross_entropy(apply(p, x), y, valid))(params)
    return jax.tree.map(lambda p, g: p - rate * g, params, grads)

  def epoch(params, key):
    if parts == 1:
      return update(params, images, labels, None), None
    order = jax.random.permutation(key, total)
    order = jnp.pad(order, (0, parts * INNER_BATCH - total)).reshape(parts, INNER_BATCH)
    valid = (jnp.arange(parts * INNER_BATCH) < total).astype(images.dtype).reshape(parts, INNER_BATCH)
    return jax.lax.scan(lambda p, x: (update(p, images[x[0]], labels[x[0]], x[1]), None), params, (order, valid))

  return jax.lax.scan(epoch, params, jax.random.split(key, epochs))[0]


class Recipe(NamedTuple):
  """Settings of a DC iteration.

  Attributes:
    classes: number of classes.
    outer: image updates.
    inner: network epochs between them.
    real_batch: real images per class and update.
    rate: of the images.
    momentum: of the images.
    net_rate: of the network.
    distance: kind of gradient distance.
    trigger: options of DOORPING's update.
    classes_at_once: see `match`.
  """

  classes: int
  outer: int
  inner: int
  real_batch: int = 256
  rate: float = 0.1
  momentum: float = 0.5
  net_rate: float = 0.01
  distance: str = 'ours'
  trigger: triggers.TriggerOptions = triggers.PUBLISHED
  classes_at_once: int = 1


class Attack(NamedTuple):
  """What differs from lane to lane: the data of one attack on one seed.

  Attributes:
    tables: of the labels after poisoning.
    poisoned: bool [images], those that carry the trigger.
    trigger_steps: int32, Adam steps allowed per DOORPING call; 0 keeps the trigger.
    low: [channels], where the trigger is clipped (-inf: nowhere).
    high: [channels].
  """

  tables: ClassTables
  poisoned: jax.Array
  trigger_steps: jax.Array
  low: jax.Array
  high: jax.Array


class Distilled(NamedTuple):
  """State of a distillation.

  Attributes:
    images: [classes * ipc, height, width, channels], normalised, in the order of the classes.
    velocity: of the images.
    trigger: [1, height, width, channels], normalised.
  """

  images: jax.Array
  velocity: jax.Array
  trigger: jax.Array


def iteration(
  apply: Apply,
  penultimate: triggers.Penultimate,
  init: Callable[[jax.Array], Any],
  state: Distilled,
  pool: Callable[[jax.Array], jax.Array],
  attack: Attack,
  mask: jax.Array,
  recipe: Recipe,
  key: jax.Array,
  augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> tuple[Distilled, dict[str, jax.Array]]:
  """One DC iteration: a fresh network; `outer` image updates, with network and trigger updates between them.

  All outer steps are one scan body; after the last image update the network and the trigger rest (the authors' order).
  A lane without poisoned images gives the same bits as the clean one.

  Args:
    apply: (params, images) -> logits.
    penultimate: (params, images) -> activations of layer -2.
    init: key -> params of a fresh network.
    state: see Distilled.
    pool: int32 [n] -> the real images of these numbers, normalised, without trigger.
    attack: see Attack.
    mask: [height, width, channels] of the trigger.
    recipe: see Recipe.
    key: of this iteration.
    augment: see `match`.

  Returns:
    (state, {'loss': distance per class and outer step, 'layers': its parts, 'trigger_steps': Adam steps taken}).
  """
  classes, shape = recipe.classes, state.images.shape
  labels = jnp.repeat(jnp.arange(classes), shape[0] // classes)
  init_key, scan_key = jax.random.split(key)

  def body(carry, inputs):
    params, images, velocity, trigger = carry
    step, key = inputs
    real_key, net_key, augment_key = jax.random.split(key, 3)
    index, valid = draw(real_key, attack.tables, recipe.real_batch)
    flat = index.reshape(-1)
    real = pool(flat)
    real = jnp.where(attack.poisoned[flat][:, None, None, None], triggers.stamp(real, trigger, mask), real)
    found = match(
      apply,
      params,
      images.reshape(classes, -1, *shape[1:]),
      real.reshape(*index.shape, *shape[1:]),
      valid,
      kind=recipe.distance,
      augment=augment,
      keys=None if augment is None else jax.random.split(augment_key, classes),
      classes_at_once=recipe.classes_at_once,
    )
    gradient = found.gradient.reshape(shape)
    images, velocity = momentum_step(images, velocity, gradient, recipe.rate, recipe.momentum)

    def go_on(params, trigger):
      params = train_network(apply, params, images, labels, recipe.net_rate, recipe.inner, net_key)
      if recipe.trigger.max_steps == 0:
        return params, trigger, jnp.zeros((), jnp.int32)
      kernel = params['params']['hidden']['kernel']
      call = triggers.update_trigger(
        penultimate,
        params,
        kernel,
        trigger,
        mask,
        recipe.trigger,
        low=attack.low,
        high=attack.high,
        max_steps=attack.trigger_steps,
      )
      return params, call.trigger, call.steps

    def rest(params, trigger):
      return params, trigger, jnp.zeros((), jnp.int32)

    params, trigger, steps = jax.lax.cond(step < recipe.outer - 1, go_on, rest, params, trigger)
    return (params, images, velocity, trigger), (found.loss, found.layers, steps)

  carry = (init(init_key), state.images, state.velocity, state.trigger)
  inputs = (jnp.arange(recipe.outer), jax.random.split(scan_key, recipe.outer))
  (_, images, velocity, trigger), (losses, layers, steps) = jax.lax.scan(body, carry, inputs)
  return Distilled(images, velocity, trigger), {
    'loss': losses.mean() / classes,
    'layers': {name: values.mean() / classes for name, values in layers.items()},
    'trigger_steps': steps.sum(),
  }
