"""A corridor whose important frames are known: forks with one right action, and cells where nothing matters."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.r2rise.demos import Demonstrations, make_demonstrations
from jaxpapers.r2rise.environments import Environment

OBSERVATIONS = ('onehot', 'picture')


def secret_actions(seed: int, forks: int, num_actions: int) -> np.ndarray:
  """The right action of every fork, [forks] int32, uniform."""
  return np.random.default_rng(seed).integers(0, num_actions, forks).astype(np.int32)


def make_forks(
  seed: int = 0, forks: int = 8, fillers: int = 4, num_actions: int = 4, observation: str = 'onehot'
) -> Environment:
  """K forks in a row, each followed by C filler cells: K (1 + C) positions, one step each. Source: this library's own.

  A wrong action at a fork ends the episode; at a filler cell every action advances. The return is the number of forks
  passed before the first wrong action.

  Args:
    seed: of the secret actions.
    forks: K.
    fillers: C.
    num_actions: A.
    observation: 'onehot' over positions, or 'picture', a [rows, 10, 1] map with one lit pixel.

  Raises:
    ValueError: for sizes that cannot be or an unknown observation.
  """
  if forks < 1 or fillers < 0 or num_actions < 2:
    raise ValueError(f'forks={forks}, fillers={fillers}, num_actions={num_actions}: at least 1, 0 and 2 are needed.')
  if observation not in OBSERVATIONS:
    raise ValueError(f'observation={observation!r} is not known; known: {", ".join(OBSERVATIONS)}.')
  period, positions = 1 + fillers, forks * (1 + fillers)
  secret = secret_actions(seed, forks, num_actions)
  shape = (positions,) if observation == 'onehot' else (-(-positions // 10), 10, 1)

  def reset(keys: jax.Array) -> jax.Array:
    return jnp.zeros(keys.shape[:1], jnp.int32)

  def observe(position: jax.Array) -> jax.Array:
    lit = position[:, None] == jnp.arange(int(np.prod(shape)))
    return lit.reshape(-1, *shape)

  def right(position: jax.Array) -> jax.Array:
    return jnp.asarray(secret)[position // period]

  def step(position: jax.Array, actions: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    fork = position % period == 0
    passed = fork & (actions == right(position))
    last = position == positions - 1
    return jnp.minimum(position + 1, positions - 1), passed.astype(jnp.float32), (fork & ~passed) | last

  def expert(position: jax.Array) -> jax.Array:
    return jnp.where(position % period == 0, right(position), 0)

  return Environment('forks', num_actions, shape, positions, reset, observe, step, expert)


def forks_demonstrations(
  seed: int = 0,
  episodes: int = 2,
  forks: int = 8,
  fillers: int = 4,
  num_actions: int = 4,
  filler_actions: str = 'constant',
  observation: str = 'onehot',
) -> tuple[Demonstrations, np.ndarray]:
  """(E passes through the corridor, truth [E, T] bool: True at forks). Source: this library's own.

  Args:
    seed: of the secret actions, as in `make_forks`; random filler actions are drawn from it too.
    episodes: E. Frames of a fork that is shown E times are redundant, hence harder to find.
    forks: K.
    fillers: C.
    num_actions: A.
    filler_actions: 'constant' (0) or 'random'.
    observation: as in `make_forks`.

  Raises:
    ValueError: for an unknown choice.
  """
  if filler_actions not in ('constant', 'random'):
    raise ValueError(f"filler_actions={filler_actions!r} is neither 'constant' nor 'random'.")
  game = make_forks(seed, forks, fillers, num_actions, observation)
  positions = np.arange(game.max_steps)
  truth = np.broadcast_to(positions % (1 + fillers) == 0, (episodes, game.max_steps))
  right = np.repeat(secret_actions(seed, forks, num_actions), 1 + fillers)
  others = np.zeros(truth.shape, np.int32)
  if filler_actions == 'random':
    others = np.random.default_rng([seed, 1]).integers(0, num_actions, truth.shape).astype(np.int32)
  frames = (positions[:, None] == np.arange(int(np.prod(game.observation_shape)))).reshape(-1, *game.observation_shape)
  observations = np.broadcast_to(frames, (episodes, *frames.shape))
  return make_demonstrations(observations, np.where(truth, right, others), num_actions=num_actions), truth


def full_data_return(forks: int, num_actions: int, epsilon: float) -> float:
  """Mean return of the policy that knows every fork and plays at random with probability `epsilon`.

  A fork is passed with q = 1 - epsilon (A - 1) / A, so that the mean is q + q^2 + ... + q^K.
  """
  q = 1.0 - epsilon * (num_actions - 1) / num_actions
  return sum(q**k for k in range(1, forks + 1))
