"""DD of all lanes as one step over one state, its real batches, and its victims."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpapers.doorping import dc, dd
from jaxpapers.doorping import trigger as triggers
from jaxpapers.doorping.data import Images
from jaxpapers.doorping.distilling import History, Problem
from jaxpapers.doorping.lanes import Lanes, over, triggered


class DdRecipe(NamedTuple):
  """Settings of DD; the defaults are the authors'.

  Attributes:
    classes: number of classes.
    per_class: images per class in a block.
    blocks: how many; a block is one inner step.
    epochs: how often the inner training goes through the blocks.
    start_rate: learning rate of every inner step at first.
    rate: of Adam on blocks and learning rates.
    decay_epochs: epochs of the real data between halvings of `rate`.
    epoch_steps: iterations per epoch, see `RealBatches.per_epoch`.
    target: label of poisoned images.
    fresh: distil for a fresh network in every iteration; False: for one, and the same in all.
    trigger: options of DOORPING's update.
  """

  classes: int
  per_class: int = 10
  blocks: int = 10
  epochs: int = 3
  start_rate: float = 0.02
  rate: float = 0.01
  decay_epochs: int = 40
  epoch_steps: int = 1
  target: int = 0
  fresh: bool = False
  trigger: triggers.TriggerOptions = triggers.PUBLISHED


class RealBatch(NamedTuple):
  """Real images of one iteration, every leaf [lanes, batch].

  Attributes:
    index: int32, their numbers.
    position: int32, their places in the order of the epoch.
    label: int32, as in the clean data.
    valid: float32, 0 where an epoch's last batch is filled up.
  """

  index: np.ndarray
  position: np.ndarray
  label: np.ndarray
  valid: np.ndarray


class RealBatches:
  """step -> RealBatch: every epoch goes through the training set once, in an order of its own for each seed."""

  def __init__(self, labels: np.ndarray, size: int, seeds: np.ndarray, seed: int = 0):
    """`labels` [images]; at most `size` images a batch; `seeds` [lanes]; `seed` of the run."""
    if size < 1:
      raise ValueError(f'A batch of {size} real images is empty.')
    self._labels, self._size = labels, min(size, len(labels))
    self._seeds, self._seed = np.asarray(seeds), seed
    self.per_epoch = -(-len(labels) // self._size)

  def __call__(self, step: int) -> RealBatch:
    """The batch of this step."""
    epoch, within = divmod(step, self.per_epoch)
    place = np.arange(self._size) + within * self._size
    valid = place < len(self._labels)
    place = np.where(valid, place, 0).astype(np.int32)
    orders = {
      int(s): np.random.default_rng([self._seed, int(s), epoch]).permutation(len(self._labels))[place]
      for s in set(self._seeds.tolist())
    }
    index = np.stack([orders[int(s)] for s in self._seeds]).astype(np.int32)
    both = (np.broadcast_to(x, index.shape) for x in (place, valid.astype(np.float32)))
    position, valid = (np.ascontiguousarray(x) for x in both)
    return RealBatch(index, position, self._labels[index].astype(np.int32), valid)


class DdState(NamedTuple):
  """State of the stage; every leaf but `step` has a leading axis [lanes].

  Attributes:
    step: int32, iterations done.
    blocks: see dd.Blocks.
    optimizer: state of the meta-optimizer.
    params: of the network that is distilled for; not used where every iteration has a fresh one.
    trigger: [lanes, 1, height, width, channels].
    history: see distilling.History; DD has no layers.
  """

  step: jax.Array
  blocks: dd.Blocks
  optimizer: Any
  params: Any
  trigger: jax.Array
  history: History


def _optimizer(recipe: DdRecipe) -> optax.GradientTransformation:
  return dd.meta_optimizer(recipe.rate, decay_epochs=recipe.decay_epochs, epoch_steps=recipe.epoch_steps)


def start(problem: Problem, recipe: DdRecipe, lanes: Lanes, key: jax.Array, iterations: int) -> DdState:
  """The state before the first iteration: blocks of noise; lanes of one seed start alike.

  Args:
    problem: see Problem; its `recipe` is not used.
    recipe: see DdRecipe.
    lanes: see Lanes.
    key: random key.
    iterations: how many there will be.
  """
  steps = recipe.blocks * recipe.epochs
  shape = (recipe.blocks, recipe.classes * recipe.per_class, *problem.mask.shape)

  def first(seed):
    noise, network = jax.random.split(jax.random.fold_in(key, seed))
    blocks = dd.Blocks(
      jax.random.normal(noise, shape), jnp.full((steps, 1), dd.raw_rate(recipe.start_rate), jnp.float32)
    )
    return blocks, _optimizer(recipe).init(blocks), problem.init(network)

  blocks, optimizer, params = jax.vmap(first)(jnp.asarray(lanes.seed))
  image = jnp.asarray(lanes.trigger)
  patch = image[:, 0, *problem.rows]
  count = len(patch)
  history = History(
    jnp.zeros((count, iterations + 1, *patch.shape[1:])).at[:, 0].set(patch),
    jnp.zeros((count, iterations)),
    {},
    jnp.zeros((count, iterations), jnp.int32),
  )
  return DdState(jnp.zeros((), jnp.int32), blocks, optimizer, params, image, history)


def carriers(attack: dc.Attack, real: RealBatch) -> jax.Array:
  """bool [batch], real images of one lane that carry the trigger.

  NAIVEATTACK's are fixed images. DOORPING's are fixed places in the epoch's order, which fall on other images in each
  epoch: as published.
  """
  place = jnp.where(attack.trigger_steps > 0, real.position, real.index)
  return jnp.asarray(attack.poisoned)[place]


def step(
  problem: Problem, recipe: DdRecipe, state: DdState, lanes: Lanes, real: RealBatch, key: jax.Array, at_once: int
) -> tuple[DdState, dict[str, jax.Array]]:
  """One meta-iteration of every lane.

  DOORPING updates its trigger on the trained network in every iteration, before the real batch is stamped with it.

  Args:
    problem: see Problem.
    recipe: see DdRecipe.
    state: see DdState.
    lanes: see Lanes.
    real: see RealBatch.
    key: of this iteration.
    at_once: lanes under one vmap, see `lanes.over`.

  Returns:
    (state, {'loss', 'trigger_steps', 'trigger_size', 'rate'}): means over lanes, the largest value of any patch, and
    the mean learning rate of the inner steps.
  """
  labels = dd.block_labels(recipe.classes, recipe.per_class)
  optimizer = _optimizer(recipe)

  def one(blocks, slots, params, image, lane, real):
    attack = lane.attack
    if recipe.fresh:
      params = problem.init(jax.random.fold_in(key, lane.seed))
    images = problem.pool(real.index)
    poisoned = carriers(attack, real)

    def poison(final):
      if recipe.trigger.max_steps == 0:
        call = triggers.TriggerUpdate(image, jnp.zeros((), jnp.int32), None, None, None)
      else:
        call = triggers.update_trigger(
          problem.penultimate,
          final,
          final['params']['hidden']['kernel'],
          image,
          problem.mask,
          recipe.trigger,
          low=attack.low,
          high=attack.high,
          max_steps=attack.trigger_steps,
        )
      stamped = triggered(images, poisoned, call.trigger, problem.mask)
      return stamped, jnp.where(poisoned, recipe.target, real.label), (call.trigger, call.steps)

    loss, gradient, _, (image, steps) = dd.meta_gradient(problem.apply, params, blocks, labels, poison, real.valid)
    updates, slots = optimizer.update(gradient, slots, blocks)
    return optax.apply_updates(blocks, updates), slots, image, loss, steps

  blocks, slots, image, loss, steps = over(one, at_once)(
    state.blocks, state.optimizer, state.params, state.trigger, lanes, real
  )
  old, index = state.history, state.step
  patch = image[:, 0, *problem.rows]
  history = History(
    old.patch.at[:, index + 1].set(patch),
    old.loss.at[:, index].set(loss),
    {},
    old.trigger_steps.at[:, index].set(steps),
  )
  metrics = {
    'loss': loss.mean(),
    'trigger_steps': steps.mean(),
    'trigger_size': jnp.abs(patch).max(),
    'rate': jax.nn.softplus(blocks.raw).mean(),
  }
  return DdState(index + 1, blocks, slots, state.params, image, history), metrics


def real_blocks(images: Images, recipe: DdRecipe, seeds: int, seed: int = 0) -> np.ndarray:
  """Numbers [seeds, blocks, classes * per_class] of clean real images, by class, for the control."""
  rng = np.random.default_rng(seed)
  total = recipe.blocks * recipe.per_class
  chosen = []
  for _ in range(seeds):
    rows = [rng.permutation(np.flatnonzero(images.y_train == label)) for label in range(recipe.classes)]
    rows = np.stack([np.resize(row, total) for row in rows]).reshape(recipe.classes, recipe.blocks, -1)
    chosen.append(rows.transpose(1, 0, 2).reshape(recipe.blocks, -1))
  return np.stack(chosen).astype(np.int32)


def victims(
  problem: Problem,
  recipe: DdRecipe,
  state: DdState,
  seeds: Sequence[int],
  chosen: np.ndarray,
  count: int,
  key: jax.Array,
  at_once: int,
) -> Any:
  """Networks trained through the stored steps on every lane's blocks, then on real images by seed.

  Victim 0 is the network that the blocks were distilled for (what the authors test), unless every iteration had a fresh
  one; all others are fresh, the same for lanes of one seed. Real images take the learning rates of the seed's first
  lane.

  Args:
    problem: see Problem.
    recipe: see DdRecipe.
    state: see DdState.
    seeds: of the lanes, from 0.
    chosen: see `real_blocks`.
    count: victims per set.
    key: of the fresh networks.
    at_once: victims under one vmap.

  Returns:
    Params with leading axes [lanes + seeds, count].
  """
  labels = dd.block_labels(recipe.classes, recipe.per_class)
  first = [list(seeds).index(s) for s in range(len(chosen))]
  sources = jnp.asarray([*range(len(seeds)), *first])
  numbers = jnp.asarray([*seeds, *range(len(chosen))])
  pixels = jax.vmap(jax.vmap(problem.pool))(jnp.asarray(chosen))
  images = jnp.concatenate([state.blocks.images, pixels])

  def one(number, victim):
    source = sources[number]
    fresh = problem.init(jax.random.fold_in(jax.random.fold_in(key, numbers[number]), victim))
    if recipe.fresh:
      params = fresh
    else:
      params = jax.tree.map(lambda own, new: jnp.where(victim == 0, own[source], new), state.params, fresh)
    return dd.train_through(problem.apply, params, dd.Blocks(images[number], state.blocks.raw[source]), labels)

  pairs = [x.reshape(-1) for x in np.meshgrid(np.arange(len(images)), np.arange(count), indexing='ij')]
  trained = over(one, at_once)(*(jnp.asarray(x) for x in pairs))
  return jax.tree.map(lambda x: x.reshape(len(images), count, *x.shape[1:]), trained)
