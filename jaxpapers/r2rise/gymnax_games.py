"""Games of gymnax (CartPole, MinAtar, bsuite ...) as environments of this room. An optional extra."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.r2rise.environments import Environment

INSTALL = 'pip install "jaxpapers[gymnax]"'


class GymnaxState(NamedTuple):
  """Copies of a gymnax game.

  Attributes:
    inner: gymnax's state, leaves [copies, ...].
    observations: [copies, ...] float32.
    keys: [copies] keys of what is random in the game.
  """

  inner: Any
  observations: jax.Array
  keys: jax.Array


def make_gymnax(name: str, max_steps: int = 200) -> Environment:
  """A game with finitely many actions.

  Args:
    name: gymnax's id, e.g. 'Breakout-MinAtar'.
    max_steps: an episode is cut after so many decisions (the game's own limit holds too).

  Raises:
    ValueError: if gymnax is missing or older than 1.0, the id is unknown (naming the known ones), or actions are
      continuous.
  """
  try:
    import gymnax
  except ImportError as error:
    raise ValueError(f'gymnax/{name} needs the package gymnax: {INSTALL}.') from error
  if name not in gymnax.registered_envs:
    raise ValueError(f'gymnax has no environment {name!r}; known: {", ".join(sorted(gymnax.registered_envs))}.')
  game, params = gymnax.make(name)
  if not hasattr(game, 'is_truncated'):
    raise ValueError(f'gymnax/{name} needs gymnax 1.0 or newer: {INSTALL}.')
  space = game.action_space(params)
  if not hasattr(space, 'n'):
    raise ValueError(f'gymnax/{name} has continuous actions: this room needs finitely many.')
  shape = jax.eval_shape(lambda key: game.reset_env(key, params)[0], jax.random.key(0)).shape

  def reset(keys: jax.Array) -> GymnaxState:
    pairs = jax.vmap(jax.random.split)(keys)
    observations, inner = jax.vmap(lambda key: game.reset_env(key, params))(pairs[:, 0])
    # Some games build their state from Python numbers: strong types from the start keep loops' carries alike.
    inner = jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), inner)
    return GymnaxState(inner, observations.astype(jnp.float32), pairs[:, 1])

  def step(state: GymnaxState, actions: jax.Array) -> tuple[GymnaxState, jax.Array, jax.Array]:
    pairs = jax.vmap(jax.random.split)(state.keys)

    def one(key, inner, action):
      observation, new, reward, terminated, _ = game.step_env(key, inner, action, params)
      return observation, new, reward, terminated | game.is_truncated(new, params)

    observations, inner, rewards, done = jax.vmap(one)(pairs[:, 0], state.inner, actions)
    inner = jax.tree.map(lambda new, old: new.astype(old.dtype), inner, state.inner)
    new = GymnaxState(inner, observations.astype(jnp.float32), pairs[:, 1])
    return new, rewards.astype(jnp.float32), done.astype(bool)

  def observe(state: GymnaxState) -> jax.Array:
    return state.observations

  limit = int(min(max_steps, np.asarray(params.max_steps_in_episode)))
  return Environment(f'gymnax/{name}', int(space.n), tuple(shape), limit, reset, observe, step)
