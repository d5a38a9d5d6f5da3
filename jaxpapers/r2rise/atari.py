"""The paper's Atari games through ale-py, an optional extra; copies live on the host, in ale-py's threads.

Preprocessing of the paper: no sticky actions, the maximum over the last two of four skipped frames, grey 84 x 84, four
frames stacked, up to 30 no-ops and FIRE at a start, rewards as they are, an episode is all lives, rows that show the
score blanked.
"""

import threading
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from jaxpapers.r2rise.environments import Environment
from jaxpapers.r2rise.official import score_rows
from jaxpapers.r2rise.tracker import breakout_expert

INSTALL = 'pip install "jaxpapers[atari]"'
SIDE, DEPTH, SKIP = 84, 4, 4
_CALLS = 1 << 24  # tickets of a group
ROMS = {
  'beamrider': 'beam_rider',
  'breakout': 'breakout',
  'enduro': 'enduro',
  'hero': 'hero',
  'montezumarevenge': 'montezuma_revenge',
  'mspacman': 'ms_pacman',
  'pong': 'pong',
  'qbert': 'qbert',
  'seaquest': 'seaquest',
  'spaceinvaders': 'space_invaders',
  'videopinball': 'video_pinball',
}


class AtariState(NamedTuple):
  """What JAX holds of copies on the host.

  Attributes:
    observations: [copies, 84, 84, 4] uint8, the newest frame last.
    ticket: [copies] int32, the host's group and its count of calls: a state can be stepped once.
  """

  observations: jax.Array
  ticket: jax.Array


class _Group:
  """Emulators that are stepped together, and how often they were called since their last reset."""

  def __init__(self, games: Any, number: int):
    self.games, self.number, self.calls = games, number, 0

  def advance(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(frames, tickets) of a call."""
    self.calls += 1
    return np.ascontiguousarray(frames[:, 0]), np.full(
      len(frames), self.number * _CALLS + self.calls % _CALLS, np.int32
    )


class _Host:
  """Groups of emulators by number of copies, at most `limit` of each.

  Devices call from threads of their own, each through one group at a time. A reset takes the group that was left alone
  for longest: with twice as many groups as devices that is never one that another device is playing with.
  """

  def __init__(self, make: Any, limit: int):
    self._make, self._limit, self._lock = make, limit, threading.Lock()
    self._groups: dict[int, list[_Group]] = {}

  def _take(self, copies: int) -> _Group:
    with self._lock:
      groups = self._groups.setdefault(copies, [])
      group = groups.pop(0) if len(groups) == self._limit else _Group(self._make(copies), len(groups))
      groups.append(group)
      return group

  def _find(self, ticket: np.ndarray) -> _Group:
    number, calls = divmod(int(ticket[0]), _CALLS)
    with self._lock:
      groups = self._groups[len(ticket)]
      group = next(g for g in groups if g.number == number)
      if group.calls % _CALLS != calls:
        raise RuntimeError(
          'A state of Atari games on the host was used twice, or after they had been reset. Learners that play while '
          "they train need batching='map'."
        )
      groups.remove(group)
      groups.append(group)
      return group

  def reset(self, seeds: Any) -> tuple[np.ndarray, np.ndarray]:
    seeds = np.asarray(seeds)
    group = self._take(len(seeds))
    return group.advance(group.games.reset(seed=seeds)[0])

  def step(self, ticket: Any, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    group = self._find(np.asarray(ticket))
    frames, rewards, ended, cut, _ = group.games.step(np.asarray(actions, np.int32))
    return *group.advance(frames), rewards.astype(np.float32), ended | cut

  def restart(self, ticket: Any, seeds: Any, done: Any) -> tuple[np.ndarray, np.ndarray]:
    ticket, done = np.asarray(ticket), np.array(done)
    group = self._find(ticket)
    # Without any reset ale-py would return nothing; the frames are then not looked at.
    if not done.any():
      return group.advance(np.zeros((len(ticket), 1, SIDE, SIDE), np.uint8))
    return group.advance(group.games.reset(seed=np.asarray(seeds)[done], options={'reset_mask': done})[0])


def make_atari(game: str, max_steps: int = 27_000, threads: int = 0) -> Environment:
  """A game of the paper's list with its minimal set of actions.

  The functions call the host from compiled programs (`pure` is False): they are not to be vmapped, several devices take
  them under shard_map or pmap, and a state can be stepped once. Breakout has a scripted expert; the other games need
  demonstrations.

  Args:
    game: one of ROMS.
    max_steps: an episode is cut after so many decisions of four frames.
    threads: of the emulators; 0 takes one per core.

  Raises:
    ValueError: for an unknown game, or if ale-py is missing.
  """
  if game not in ROMS:
    raise ValueError(f'{game!r} is no Atari game known here; known: {", ".join(ROMS)}.')
  try:
    from ale_py import LoggerMode
    from ale_py._ale_py import ALEInterface
    from ale_py.vector_env import AtariVectorEnv
  except ImportError as error:
    raise ValueError(f'{game} needs ale-py and gymnasium: {INSTALL}.') from error
  ALEInterface.setLoggerMode(LoggerMode.Error)

  def make(copies: int) -> Any:
    return AtariVectorEnv(
      ROMS[game],
      copies,
      num_threads=threads,
      stack_num=1,  # ale-py fills stacks with zeros at a start; here the first frame is repeated
      frameskip=SKIP,
      reward_clipping=False,
      max_num_frames_per_episode=max_steps * SKIP + 1000,
    )

  devices = jax.local_device_count()
  host = _Host(make, limit=1 if devices == 1 else 2 * devices)
  num_actions = int(make(1).single_action_space.n)
  blank = jnp.asarray(score_rows(game, SIDE))[:, None]

  def frames_like(copies: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    return jax.ShapeDtypeStruct((copies, SIDE, SIDE), jnp.uint8), jax.ShapeDtypeStruct((copies,), jnp.int32)

  def seeds_of(keys: jax.Array) -> jax.Array:
    return jax.vmap(lambda key: jax.random.randint(key, (), 0, np.iinfo(np.int32).max))(keys)

  def stacked(frames: jax.Array) -> jax.Array:
    return jnp.repeat(jnp.where(blank, 0, frames)[..., None], DEPTH, axis=-1)

  def reset(keys: jax.Array) -> AtariState:
    frames, ticket = io_callback(host.reset, frames_like(len(keys)), seeds_of(keys))
    return AtariState(stacked(frames), ticket)

  def observe(state: AtariState) -> jax.Array:
    return state.observations

  def step(state: AtariState, actions: jax.Array) -> tuple[AtariState, jax.Array, jax.Array]:
    copies = len(actions)
    shapes = (
      *frames_like(copies),
      jax.ShapeDtypeStruct((copies,), jnp.float32),
      jax.ShapeDtypeStruct((copies,), jnp.bool_),
    )
    frames, ticket, rewards, done = io_callback(host.step, shapes, state.ticket, actions)
    newest = jnp.where(blank, 0, frames)[..., None]
    return AtariState(jnp.concatenate([state.observations[..., 1:], newest], axis=-1), ticket), rewards, done

  def restart(keys: jax.Array, state: AtariState, done: jax.Array) -> AtariState:
    frames, ticket = io_callback(host.restart, frames_like(len(keys)), state.ticket, seeds_of(keys), done)
    return AtariState(jnp.where(done[:, None, None, None], stacked(frames), state.observations), ticket)

  expert = (lambda state: breakout_expert(state.observations)) if game == 'breakout' else None
  shape = (SIDE, SIDE, DEPTH)
  return Environment(game, num_actions, shape, max_steps, reset, observe, step, expert, pure=False, restart=restart)
