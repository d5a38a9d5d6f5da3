"""Behaviour cloning from observation: an inverse model learned by play labels the demonstrations."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxpapers.r2rise.bc import weighted_cross_entropy
from jaxpapers.r2rise.environments import Environment, restart
from jaxpapers.r2rise.gail import flat_features
from jaxpapers.r2rise.learners import Frames, Learner, draw_frames

PAIR_MASKS = ('both', 'first')


class BcoOptions(NamedTuple):
  """Settings.

  Attributes:
    iterations: rounds of play, inverse model, labels and policy.
    copies, steps: copies played per round, and decisions of each.
    updates: of each model per round.
    batch: transitions or frames per update.
    epsilon: share of random actions in the first round; it halves every round down to `floor`.
    floor: see epsilon.
    pair_mask: 'both': a transition of the demonstrations needs both frames kept; 'first': the
      first alone (the authors').
  """

  iterations: int = 5
  copies: int = 8
  steps: int = 32
  updates: int = 60
  batch: int = 32
  epsilon: float = 0.9
  floor: float = 0.05
  pair_mask: str = 'both'

  def check(self) -> 'BcoOptions':
    """Itself.

    Raises:
      ValueError: for an unknown pair_mask.
    """
    if self.pair_mask not in PAIR_MASKS:
      raise ValueError(f'pair_mask={self.pair_mask!r} is not known; known: {", ".join(PAIR_MASKS)}.')
    return self


def inverse_logits(inverse: nn.Module, params: Any, before: jax.Array, after: jax.Array) -> jax.Array:
  """Which action led from features `before` [n, D] to `after` [n, D]: logits [n, A]."""
  return inverse.apply({'params': params}, jnp.concatenate([before, after], axis=-1))


def pair_weights(frames: Frames, weights: jax.Array, pair_mask: str) -> jax.Array:
  """[n] weights of transitions: 0 where what follows is unknown or, for 'both', dropped."""
  count = len(weights)
  follows = frames.follows.astype(weights.dtype)
  if pair_mask == 'first':
    return weights * follows
  # What lies behind the frames is the observation after a trajectory's last frame: it has no mask of its own.
  known = frames.next_index < count
  after = jnp.where(known, weights[jnp.where(known, frames.next_index, 0)], 1.0)
  return weights * after * follows


def bco(
  policy: nn.Module,
  inverse: nn.Module,
  environment: Environment,
  optimizer: optax.GradientTransformation,
  options: BcoOptions,
  features: Callable[[jax.Array], jax.Array] = flat_features,
) -> Learner:
  """The learner; its parameters are those of the policy, which acts greedily. It never sees the expert's actions.

  Args:
    policy: features -> logits.
    inverse: features of two observations, concatenated -> logits.
    environment: that the learner plays while it learns.
    optimizer: of both models.
    options: settings.
    features: observations [n, ...] -> [n, D]; a frozen network for pixels.
  """
  options.check()
  num_actions = environment.num_actions

  def act(params: Any, observations: jax.Array, key: jax.Array) -> jax.Array:
    del key
    return jnp.argmax(policy.apply({'params': params}, features(observations)), axis=-1).astype(jnp.int32)

  def play(params: Any, epsilon: jax.Array, key: jax.Array):
    reset_key, loop_key = jax.random.split(key)

    def body(state, step_key):
      chance_key, action_key, restart_key = jax.random.split(step_key, 3)
      observations = environment.observe(state)
      random = jax.random.randint(action_key, (options.copies,), 0, num_actions)
      chance = jax.random.uniform(chance_key, (options.copies,)) < epsilon
      actions = jnp.where(chance, random, act(params, observations, action_key))
      new, _, done = environment.step(state, actions)
      row = (features(observations), actions, features(environment.observe(new)), 1.0 - done)
      return restart(environment, jax.random.split(restart_key, options.copies), new, done), row

    start = environment.reset(jax.random.split(reset_key, options.copies))
    _, rows = jax.lax.scan(body, start, jax.random.split(loop_key, options.steps))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)

  def fit(module, params, opt_state, inputs, actions, weights, key):
    def body(carry, step_key):
      params, opt_state = carry
      index = draw_frames(step_key, weights, options.batch)

      def objective(params):
        logits = module.apply({'params': params}, inputs[index])
        return weighted_cross_entropy(logits, actions[index], jnp.ones(options.batch))

      updates, opt_state = optimizer.update(jax.grad(objective)(params), opt_state, params)
      return (optax.apply_updates(params, updates), opt_state), None

    return jax.lax.scan(body, (params, opt_state), jax.random.split(key, options.updates))[0]

  def train(key: jax.Array, frames: Frames, weights: jax.Array) -> Any:
    count = len(weights)
    seen = features(frames.observations)
    shown = jnp.concatenate([seen[:count], seen[frames.next_index]], axis=-1)
    shown_weights = pair_weights(frames, weights, options.pair_mask)
    policy_key, inverse_key, loop_key = jax.random.split(key, 3)
    params = {
      'policy': policy.init(policy_key, seen[:1])['params'],
      'inverse': inverse.init(inverse_key, shown[:1])['params'],
    }
    slots = {name: optimizer.init(value) for name, value in params.items()}
    size = options.copies * options.steps
    rows = options.iterations * size
    memory = (
      jnp.zeros((rows, seen.shape[1])),
      jnp.zeros(rows, jnp.int32),
      jnp.zeros((rows, seen.shape[1])),
      jnp.zeros(rows),
    )

    def body(carry, number):
      params, slots, memory = carry
      play_key, *fit_keys = jax.random.split(jax.random.fold_in(loop_key, number), 3)
      epsilon = jnp.maximum(options.epsilon * 0.5**number, options.floor)
      fresh = play(params['policy'], epsilon, play_key)
      memory = jax.tree.map(lambda m, x: jax.lax.dynamic_update_slice_in_dim(m, x, number * size, 0), memory, fresh)
      before, actions, after, real = memory
      transitions = jnp.concatenate([before, after], axis=-1)
      learned = fit(inverse, params['inverse'], slots['inverse'], transitions, actions, real, fit_keys[0])
      labels = jnp.argmax(inverse.apply({'params': learned[0]}, shown), axis=-1)
      cloned = fit(policy, params['policy'], slots['policy'], seen[:count], labels, shown_weights, fit_keys[1])
      new = {'policy': cloned[0], 'inverse': learned[0]}
      return (new, {'policy': cloned[1], 'inverse': learned[1]}, memory), None

    (params, _, _), _ = jax.lax.scan(body, (params, slots, memory), jnp.arange(options.iterations))
    return params['policy']

  return Learner('bco', train, act)
