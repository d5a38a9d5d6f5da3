"""The distillation of all lanes as one step over one state, with the history that the pictures show."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpapers.doorping import dc
from jaxpapers.doorping.lanes import Lanes, over, triggered
from jaxpapers.doorping.trigger import Penultimate


class History(NamedTuple):
  """What happened, iteration by iteration; 0 where it has not happened yet.

  Attributes:
    patch: [lanes, iterations + 1, patch, patch, channels], the trigger before every iteration and after the last.
    loss: [lanes, iterations], distance per class.
    layers: {layer: [lanes, iterations]}, its parts; {} for distances that have none.
    trigger_steps: int32 [lanes, iterations], Adam steps taken.
  """

  patch: jax.Array
  loss: jax.Array
  layers: Mapping[str, jax.Array]
  trigger_steps: jax.Array


class DistillState(NamedTuple):
  """State of the stage.

  Attributes:
    step: int32, iterations done.
    distilled: see dc.Distilled; every leaf [lanes, ...].
    history: see History.
  """

  step: jax.Array
  distilled: dc.Distilled
  history: History


class Problem(NamedTuple):
  """What all lanes share.

  Attributes:
    apply: (params, images) -> logits.
    penultimate: (params, images) -> activations of layer -2.
    init: key -> params of a fresh network.
    pool: int32 [n] -> real images of these numbers, normalised.
    mask: [height, width, channels], 1 in the patch.
    rows: slices of the patch: (rows, columns).
    recipe: see dc.Recipe.
    augment: see dc.match.
  """

  apply: dc.Apply
  penultimate: Penultimate
  init: Callable[[jax.Array], Any]
  pool: Callable[[jax.Array], jax.Array]
  mask: Any
  rows: tuple[slice, slice]
  recipe: dc.Recipe
  augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None


def start(problem: Problem, lanes: Lanes, key: jax.Array, kind: str, iterations: int) -> DistillState:
  """The state before the first iteration.

  Args:
    problem: see Problem.
    lanes: see Lanes.
    key: of the noise.
    kind: 'noise' (normal), 'real' (copies of real images as the attacker has them, some with the first trigger) or
      'clean' (copies of real images as they were).
    iterations: how many there will be.
  """
  count, classes, ipc = lanes.start.shape

  def first(lane):
    if kind == 'noise':
      return jax.random.normal(jax.random.fold_in(key, lane.seed), (classes * ipc, *problem.mask.shape))
    flat = lane.start.reshape(-1)
    real = problem.pool(flat)
    return real if kind == 'clean' else triggered(real, lane.attack.poisoned[flat], lane.trigger, problem.mask)

  images = jax.vmap(first)(lanes)
  patch = lanes.trigger[:, 0, *problem.rows]

  def parts():
    params = problem.init(key)
    return dc.layer_distances(params, params, problem.recipe.distance)

  layers = jax.eval_shape(parts)
  empty = jnp.zeros((count, iterations))
  history = History(
    jnp.zeros((count, iterations + 1, *patch.shape[1:])).at[:, 0].set(patch),
    empty,
    {name: empty for name in layers},
    jnp.zeros((count, iterations), jnp.int32),
  )
  return DistillState(jnp.zeros((), jnp.int32), dc.Distilled(images, jnp.zeros_like(images), lanes.trigger), history)


def step(
  problem: Problem, state: DistillState, lanes: Lanes, key: jax.Array, at_once: int
) -> tuple[DistillState, dict[str, jax.Array]]:
  """One iteration of every lane; lanes of one seed see the same networks and draws.

  Returns:
    (state, {'loss', 'trigger_steps', 'trigger_size'}): means over lanes, and the largest value of any patch.
  """

  def one(distilled, lane):
    return dc.iteration(
      problem.apply,
      problem.penultimate,
      problem.init,
      distilled,
      problem.pool,
      lane.attack,
      problem.mask,
      problem.recipe,
      jax.random.fold_in(key, lane.seed),
      problem.augment,
    )

  distilled, found = over(one, at_once)(state.distilled, lanes)
  old, index = state.history, state.step
  patch = distilled.trigger[:, 0, *problem.rows]
  history = History(
    old.patch.at[:, index + 1].set(patch),
    old.loss.at[:, index].set(found['loss']),
    {name: old.layers[name].at[:, index].set(value) for name, value in found['layers'].items()},
    old.trigger_steps.at[:, index].set(found['trigger_steps']),
  )
  metrics = {
    'loss': found['loss'].mean(),
    'trigger_steps': found['trigger_steps'].mean(),
    'trigger_size': jnp.abs(patch).max(),
  }
  return DistillState(index + 1, distilled, history), metrics
