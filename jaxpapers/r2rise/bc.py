"""Behaviour cloning: cross-entropy on the kept frames."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxpapers.r2rise.learners import Frames, Learner, draw_frames, walk_frames
from jaxpapers.r2rise.model import as_input

SAMPLINGS = ('iid', 'permute', 'full')


class Validation(NamedTuple):
  """Early stopping on a part of the kept frames.

  Attributes:
    fraction: of the kept frames that is held out.
    every: updates between checks.
    patience: training stops when the loss was above the best on so many successive checks.
    keep: 'last' parameters, as the authors' program, or the 'best'.
  """

  fraction: float = 0.1
  every: int = 500
  patience: int = 6
  keep: str = 'last'


class BcOptions(NamedTuple):
  """How behaviour cloning is trained.

  Attributes:
    steps: updates, whatever the number of kept frames.
    batch: frames an update.
    sampling: 'iid' draws frames in proportion to their weights; 'permute' walks through the kept ones in random order
      (the authors'); 'full' takes the weighted mean over all frames.
    validation: early stopping, or None.
  """

  steps: int = 300
  batch: int = 64
  sampling: str = 'iid'
  validation: Validation | None = None

  def check(self) -> 'BcOptions':
    """Itself.

    Raises:
      ValueError: naming a setting that cannot be.
    """
    if self.sampling not in SAMPLINGS:
      raise ValueError(f'sampling={self.sampling!r} is not known; known: {", ".join(SAMPLINGS)}.')
    if self.steps < 1 or self.batch < 1:
      raise ValueError(f'steps={self.steps} and batch={self.batch} must be at least 1.')
    if self.validation is not None:
      if not 0.0 < self.validation.fraction < 1.0:
        raise ValueError(f'validation.fraction={self.validation.fraction} must lie in (0, 1).')
      if self.validation.keep not in ('last', 'best'):
        raise ValueError(f"validation.keep={self.validation.keep!r} is neither 'last' nor 'best'.")
    return self


def weighted_cross_entropy(logits: jax.Array, actions: jax.Array, weights: jax.Array) -> jax.Array:
  """Weighted mean over frames; 0 where no frame has weight. Logits [n, A], actions [n], weights [n]."""
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, actions)
  return jnp.sum(losses * weights) / jnp.maximum(jnp.sum(weights), 1.0)


def update(
  network: nn.Module,
  optimizer: optax.GradientTransformation,
  params: Any,
  opt_state: Any,
  observations: jax.Array,
  actions: jax.Array,
  weights: jax.Array,
) -> tuple[Any, Any, jax.Array, Any]:
  """One gradient step of the weighted mean cross-entropy.

  Args:
    network: observations as `as_input` gives them -> logits.
    optimizer: any.
    params: of the network.
    opt_state: of the optimizer.
    observations: [batch, ...] stored dtype.
    actions: [batch] int32.
    weights: [batch].

  Returns:
    (params, opt_state, loss, gradients).
  """

  def objective(params):
    return weighted_cross_entropy(network.apply({'params': params}, as_input(observations)), actions, weights)

  loss, grads = jax.value_and_grad(objective)(params)
  updates, opt_state = optimizer.update(grads, opt_state, params)
  return optax.apply_updates(params, updates), opt_state, loss, grads


def behaviour_cloning(
  network: nn.Module, optimizer: optax.GradientTransformation, options: BcOptions, start: Any = None
) -> Learner:
  """The learner; its parameters are those of the network. Source: the authors' BC, without its defects.

  Args:
    network: observations as `as_input` gives them -> logits.
    optimizer: any.
    options: settings.
    start: parameters from which every training starts, or None for fresh random ones.

  Raises:
    ValueError: as `BcOptions.check`.
  """
  options.check()

  def train(key: jax.Array, frames: Frames, weights: jax.Array) -> Any:
    init_key, split_key, batch_key = jax.random.split(key, 3)
    if start is None:
      params = network.init(init_key, as_input(frames.observations[:1]))['params']
    else:
      params = jax.tree.map(jnp.asarray, start)
    carry = (params, optimizer.init(params))
    if options.validation is not None:
      return _with_validation(network, optimizer, options, carry, frames, weights, split_key, batch_key)
    carry, _ = jax.lax.scan(
      _body(network, optimizer, options, frames, weights, batch_key), carry, jnp.arange(options.steps)
    )
    return carry[0]

  return Learner('bc', train, greedy(network))


def greedy(network: nn.Module) -> Callable[[Any, jax.Array, jax.Array], jax.Array]:
  """The action of the largest logit."""

  def act(params: Any, observations: jax.Array, key: jax.Array) -> jax.Array:
    del key
    return jnp.argmax(network.apply({'params': params}, as_input(observations)), axis=-1).astype(jnp.int32)

  return act


def _body(network, optimizer, options: BcOptions, frames: Frames, weights, key):
  """The scan body of one update at a step number."""
  size = len(weights)

  def body(carry, step):
    if options.sampling == 'full':
      batch = frames.observations[:size], frames.actions, weights
    else:
      if options.sampling == 'iid':
        index = draw_frames(jax.random.fold_in(key, step), weights, options.batch)
      else:
        index = walk_frames(key, weights > 0, step, options.batch)
      batch = frames.observations[index], frames.actions[index], jnp.ones(options.batch)
    params, opt_state, loss, _ = update(network, optimizer, *carry, *batch)
    return (params, opt_state), loss

  return body


def _with_validation(network, optimizer, options, carry, frames, weights, split_key, batch_key):
  """Training in rounds of `every` updates with a check after each; a learner that stopped keeps its parameters."""
  rule, kept = options.validation, weights > 0
  order = jnp.argsort(jnp.where(kept, jax.random.uniform(split_key, kept.shape), 2.0))
  held = jnp.floor(rule.fraction * kept.sum()).astype(jnp.int32)
  slots = max(1, int(rule.fraction * len(weights)))
  index = order[:slots]
  mask = (jnp.arange(slots) < held).astype(jnp.float32)
  training = weights * ~jnp.zeros_like(kept).at[index].set(jnp.arange(slots) < held)
  body = _body(network, optimizer, options, frames, training, batch_key)

  def validation_loss(params):
    def one(i):
      logits = network.apply({'params': params}, as_input(frames.observations[i][None]))
      return optax.softmax_cross_entropy_with_integer_labels(logits, frames.actions[i][None])[0]

    return jnp.sum(jax.lax.map(one, index, batch_size=min(10, slots)) * mask)

  def select(flag, a, b):
    return jax.tree.map(lambda x, y: jnp.where(flag, x, y), a, b)

  def a_round(state, number):
    carry, best, best_params, bad = state
    going = bad < rule.patience
    steps = number * rule.every + jnp.arange(rule.every)
    trained, _ = jax.lax.scan(body, carry, steps)
    carry = select(going, trained, carry)
    loss = validation_loss(carry[0])
    better = going & (loss < best)
    # Equal to the best is neither better nor above it.
    worse = going & (loss > best)
    bad = jnp.where(worse, bad + 1, jnp.where(going, 0, bad))
    return (carry, jnp.where(better, loss, best), select(better, carry[0], best_params), bad), loss

  rounds = max(1, options.steps // rule.every)
  start = (carry, jnp.asarray(jnp.inf, jnp.float32), carry[0], jnp.zeros((), jnp.int32))
  (carry, _, best_params, _), _ = jax.lax.scan(a_round, start, jnp.arange(rounds))
  return best_params if rule.keep == 'best' else carry[0]
