"""Returns of many policies in many episodes, as one loop over time."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxpapers.r2rise.environments import Environment
from jaxpapers.r2rise.learners import Learner


def evaluate(
  learner: Learner,
  environment: Environment,
  keys: jax.Array,
  params: Any,
  episodes: int,
  epsilon: jax.Array | float,
) -> jax.Array:
  """Undiscounted returns of the first episode of every copy, cut after `environment.max_steps` decisions.

  Args:
    learner: how its parameters act.
    environment: the game.
    keys: [learners] keys, of starts and actions; equal keys give common random numbers.
    params: of the learners, leaves [learners, ...].
    episodes: copies per learner.
    epsilon: probability of a uniformly random action, a number or [learners]. 1 is a policy by chance.

  Returns:
    [learners, episodes] float32.
  """
  learners, copies = len(keys), len(keys) * episodes
  epsilon = jnp.broadcast_to(jnp.asarray(epsilon, jnp.float32), (learners,))[:, None]
  split = jax.vmap(lambda key: jax.random.split(key, episodes + 1))(keys)
  loop_keys = split[:, -1]

  def choose(key, params, observations):
    act_key, chance_key = jax.random.split(key)
    return learner.act(params, observations, act_key), jax.random.uniform(chance_key, (episodes,))

  def body(carry):
    state, alive, total, time = carry
    observations = environment.observe(state)
    observations = observations.reshape(learners, episodes, *observations.shape[1:])
    step_keys = jax.vmap(lambda key: jax.random.fold_in(key, time))(loop_keys)
    actions, chance = jax.vmap(choose)(step_keys, params, observations)
    if environment.num_actions:
      # Below epsilon, chance / epsilon is uniform again: one draw decides both whether and which.
      random = jnp.floor(chance / jnp.maximum(epsilon, 1e-9) * environment.num_actions).astype(actions.dtype)
      actions = jnp.where(chance < epsilon, jnp.minimum(random, environment.num_actions - 1), actions)
    state, reward, done = environment.step(state, actions.reshape(copies, *actions.shape[2:]))
    return state, alive & ~done, total + jnp.where(alive, reward, 0.0), time + 1

  def going(carry):
    return jnp.any(carry[1]) & (carry[3] < environment.max_steps)

  state = environment.reset(split[:, :-1].reshape(copies, *split.shape[2:]))
  carry = (state, jnp.ones(copies, bool), jnp.zeros(copies, jnp.float32), jnp.zeros((), jnp.int32))
  return jax.lax.while_loop(going, body, carry)[2].reshape(learners, episodes)
