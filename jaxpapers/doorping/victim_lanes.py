"""Victims of all lanes, and of clean real images, as one program; what every trigger does to them."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.doorping import trigger, victims
from jaxpapers.doorping.data import Images
from jaxpapers.doorping.distilling import Problem
from jaxpapers.doorping.lanes import CLEAN, Lane, over

FORMS = ('raw', 'clipped', 'uint8')
OWN, CONTROL_CLEAN, CONTROL_REAL = 'own', 'control_clean', 'control_real'


class VictimState(NamedTuple):
  """State of the stage.

  Attributes:
    epoch: int32, epochs done.
    victims: see victims.Victim; every leaf [sets, victims, ...].
    images: [sets, images, height, width, channels], the training sets: those of the lanes, then of real images by seed.
    trigger: [lanes, 1, height, width, channels].
  """

  epoch: jax.Array
  victims: victims.Victim
  images: jax.Array
  trigger: jax.Array


class Pairs(NamedTuple):
  """Which trigger meets which victim.

  Attributes:
    role: [pairs] OWN (victims of the trigger's lane), CONTROL_CLEAN (of the clean distilled set of that seed) or
      CONTROL_REAL (of clean real images).
    set: int32 [pairs], training set of the victim.
    victim: int32 [pairs].
    lane: int32 [pairs], of the trigger.
  """

  role: np.ndarray
  set: np.ndarray
  victim: np.ndarray
  lane: np.ndarray


def pairs(lanes: Sequence[Lane], seeds: int, count: int) -> Pairs:
  """All pairs of a run with `count` victims per set; without clean lanes there is no CONTROL_CLEAN."""
  clean = {lane.seed: index for index, lane in enumerate(lanes) if lane.attack == CLEAN}
  rows = []
  for index, lane in enumerate(lanes):
    sets = [(OWN, index), (CONTROL_REAL, len(lanes) + lane.seed)]
    if lane.seed in clean and lane.attack != CLEAN:
      sets.append((CONTROL_CLEAN, clean[lane.seed]))
    rows += [(role, number, victim, index) for role, number in sets for victim in range(count)]
  role, *numbers = zip(*rows, strict=True)
  return Pairs(np.asarray(role), *(np.asarray(column, np.int32) for column in numbers))


def start(
  init: Any, images: jax.Array, triggers: jax.Array, seeds: jax.Array, count: int, key: jax.Array
) -> VictimState:
  """Victims before their first epoch; sets of one seed have the same initial networks.

  Args:
    init: key -> params of a fresh network.
    images: [sets, images, height, width, channels].
    triggers: [lanes, 1, height, width, channels].
    seeds: int32 [sets].
    count: victims per set.
    key: random key.
  """

  def one(seed):
    keys = jax.random.split(jax.random.fold_in(key, seed), count)
    return jax.vmap(lambda k: victims.start(init(k)))(keys)

  return VictimState(jnp.zeros((), jnp.int32), jax.vmap(one)(seeds), images, triggers)


def train(
  problem: Problem,
  state: VictimState,
  labels: jax.Array,
  recipe: victims.VictimRecipe,
  epochs: int,
  key: jax.Array,
  at_once: int,
) -> VictimState:
  """The next `epochs` epochs of every victim, or those that are left."""
  sets, count = _leading(state.victims)
  last = jnp.minimum(state.epoch + epochs, recipe.epochs + 1)

  def one(victim, index):
    images = state.images[index]

    def body(epoch, victim):
      return victims.epoch(problem.apply, victim, images, labels, epoch, recipe, jax.random.fold_in(key, epoch))

    return jax.lax.fori_loop(state.epoch, last, body, victim)

  flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), state.victims)
  trained = over(one, at_once)(flat, jnp.repeat(jnp.arange(sets), count))
  return state._replace(epoch=last, victims=jax.tree.map(lambda x: x.reshape(sets, count, *x.shape[1:]), trained))


def _leading(tree: Any) -> tuple[int, int]:
  return jax.tree.leaves(tree)[0].shape[:2]


def test_set(images: Images, chunk: int, devices: int = 1) -> dict[str, np.ndarray]:
  """All test images as {'image', 'label', 'valid'}, padded to whole chunks that divide over the devices."""
  total, whole = len(images.y_test), math.lcm(chunk, devices)
  index = np.resize(np.arange(total), -(-total // whole) * whole)
  return {'image': images.x_test[index], 'label': images.y_test[index], 'valid': np.arange(len(index)) < total}


def forms(problem: Problem, image: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
  """A trigger [1, height, width, channels] as it is, clipped to the pixel range, and as an image file holds it."""
  low, high = trigger.pixel_range(mean, std)
  mask = problem.mask
  clipped = trigger.clip_trigger(image, mask, low, high)
  return jnp.stack([image, clipped, trigger.round_trigger(image, mask, mean, std)])


def predictions(
  problem: Problem,
  params: Any,
  triggers: jax.Array,
  images: jax.Array,
  table: Pairs,
  mean: np.ndarray,
  std: np.ndarray,
  at_once: int,
) -> tuple[jax.Array, jax.Array]:
  """Labels that victims predict.

  Args:
    problem: see Problem; its mask is that of the trigger.
    params: of the victims, leaves [sets, victims, ...].
    triggers: [lanes, 1, height, width, channels].
    images: [chunks, batch, height, width, channels], normalised.
    table: which trigger meets which victim.
    mean: of the normalisation.
    std: of the normalisation.
    at_once: victims under one vmap.

  Returns:
    (int32 [sets, victims, images] without a trigger, int32 [pairs, FORMS, images] with it).
  """
  sets, count = _leading(params)

  def predict(params, change):
    return jax.lax.map(lambda x: jnp.argmax(problem.apply(params, change(x)), -1), images).reshape(-1)

  def clean(params):
    return predict(params, lambda x: x)

  def attacked(number, victim, lane):
    mine = jax.tree.map(lambda x: x[number, victim], params)
    shown = forms(problem, triggers[lane], mean, std)
    return jax.lax.map(lambda t: predict(mine, lambda x: trigger.stamp(x, t, problem.mask)), shown)

  flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), params)
  without = over(clean, at_once)(flat).reshape(sets, count, -1)
  return without, over(attacked, at_once)(*(jnp.asarray(x) for x in table[1:]))
