"""A run's victims as the defence suite takes them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.doorping import victims
from jaxpapers.doorping.data import Images
from jaxpapers.doorping.defence import Network
from jaxpapers.doorping.defence_suite import CLEAN, Attacked, Trusted
from jaxpapers.doorping.lanes import Lane
from jaxpapers.doorping.model import Network as Model
from jaxpapers.doorping.trigger import normalise
from jaxpapers.doorping.victim_lanes import VictimState


def network(model: Model) -> Network:
  """`model` as the two functions that defences use."""

  def forward(params, images):
    outputs = model.apply(params, images, method='outputs')
    return outputs.logits, outputs.hidden

  def head(params, features):
    last = params['params']['logits']
    return features @ last['kernel'] + last['bias']

  return Network(forward, head)


def attacked(lanes: Sequence[Lane], state: VictimState, attacks: Sequence[str], count: int) -> dict[str, Attacked]:
  """What the attacks left behind, over all seeds and the first `count` victims of each.

  Victims of clean sets carry the trigger of the first DOORPING attack (else of the first attack) of their seed: what a
  defence says of it there is what the trigger does without any backdoor.

  Args:
    lanes: see Lane.
    state: trained victims.
    attacks: which; CLEAN must be among them.
    count: victims per set.

  Raises:
    ValueError: for an attack that was not run.
  """
  where = {name: [i for i, lane in enumerate(lanes) if lane.attack == name] for name in attacks}
  missing = [name for name, rows in where.items() if not rows]
  if missing:
    raise ValueError(f'Defences against {", ".join(missing)} need these attacks in config.attacks.')
  shown = sorted((name for name in attacks if name != CLEAN), key=lambda name: not name.startswith('doorping'))

  def one(name):
    rows = np.asarray(where[name])
    stamped = np.asarray(where[shown[0]]) if name == CLEAN and shown else rows
    params = jax.tree.map(lambda x: x[rows, :count].reshape(-1, *x.shape[2:]), state.victims.params)
    spread = lambda x: jnp.repeat(x, count, axis=0)  # noqa: E731
    return Attacked(params, spread(state.images[rows]), spread(state.trigger[stamped][:, 0]))

  return {name: one(name) for name in attacks}


def trusted(images: Images, count: int, tested: int, seed: int) -> Trusted:
  """`count` clean training images drawn at random, and the first `tested` test images (0: all)."""
  chosen = np.random.default_rng(seed).permutation(len(images.y_train))[:count]
  shown = slice(0, tested or None)
  held, test = (
    normalise(x.astype(np.float32), images.mean, images.std) for x in (images.x_train[chosen], images.x_test[shown])
  )
  return Trusted(held, images.y_train[chosen], test, images.y_test[shown], images.mean, images.std)


def retrain(
  apply: Callable, init: Callable, recipe: victims.VictimRecipe
) -> Callable[[jax.Array, jax.Array, jax.Array], Any]:
  """(images, labels, key) -> params of a fresh victim."""
  return lambda images, labels, key: victims.train(apply, init(key), images, labels, recipe, key)
