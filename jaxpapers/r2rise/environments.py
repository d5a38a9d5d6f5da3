"""What an environment is here: pure functions over a batch of independent copies."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Environment(NamedTuple):
  """Copies of a game with finitely many actions, stepped together.

  Attributes:
    name: for messages and titles.
    num_actions: A.
    observation_shape: of one observation.
    max_steps: an episode is cut after so many decisions.
    reset: keys [copies] -> state, a pytree whose leaves start with [copies].
    observe: state -> observations [copies, ...]; bool, uint8 (pixels 0..255) or float.
    step: (state, actions [copies] int32) -> (state, rewards [copies] float32, done [copies] bool). Where a game needs
      random numbers, its state carries a key. What a finished copy returns is ignored.
    expert: state -> actions [copies] int32 of a scripted player, or None.
    pure: False where copies live outside of JAX; such an environment cannot be vmapped over learners.
    restart: (keys, state, done) -> state as `restart` below, where fresh copies cannot be made beside the old ones.
  """

  name: str
  num_actions: int
  observation_shape: tuple[int, ...]
  max_steps: int
  reset: Callable[[jax.Array], Any]
  observe: Callable[[Any], jax.Array]
  step: Callable[[Any, jax.Array], tuple[Any, jax.Array, jax.Array]]
  expert: Callable[[Any], jax.Array] | None = None
  pure: bool = True
  restart: Callable[[jax.Array, Any, jax.Array], Any] | None = None


def restart(environment: Environment, keys: jax.Array, state: Any, done: jax.Array) -> Any:
  """`state` with the copies that are `done` [copies] bool replaced by fresh ones."""
  if environment.restart is not None:
    return environment.restart(keys, state, done)
  fresh = environment.reset(keys)

  def pick(new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(done.reshape(done.shape + (1,) * (new.ndim - 1)), new, old)

  return jax.tree.map(pick, fresh, state)
