"""What is explained: an environment, demonstrations of it, and where it is known what matters in them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxpapers.r2rise import forks as corridor
from jaxpapers.r2rise.breakout10 import noisy_expert
from jaxpapers.r2rise.demos import Demonstrations, corrupt, freeze, make_demonstrations
from jaxpapers.r2rise.environments import Environment
from jaxpapers.r2rise.expert import ExpertOptions, cached_expert
from jaxpapers.r2rise.games import make_game
from jaxpapers.r2rise.masks import cells_of
from jaxpapers.r2rise.readers import fit, read_minari, read_npz, take

SOURCES = ('expert', 'npz', 'minari')
PLANTS = {'none': None, 'corrupt': corrupt, 'freeze': freeze}


class Problem(NamedTuple):
  """A game, demonstrations, and truth [E, cells] bool (True where a cell was made to matter), or None if unknown."""

  environment: Environment
  demos: Demonstrations
  truth: np.ndarray | None


def make_problem(
  environment: str, *, seed: int, block: int, max_steps: int, forks: Mapping[str, Any], demos: Mapping[str, Any]
) -> Problem:
  """A problem from settings.

  Args:
    environment: see `make_game`.
    seed: of everything random.
    block: frames a cell.
    max_steps: an episode is cut after so many decisions.
    forks: arguments of `forks_demonstrations`, for 'forks'.
    demos: `source`, one of SOURCES: an expert (scripted, or trained by PPO and kept in the folder `cache`), or what
      `path` names. `episodes` and `length` of them (0: all that a file has; the forks have their own length); `noise`,
      the share of random actions in an expert's play; `plant`, one of PLANTS, and its `fraction` of the cells;
      `expert_updates`, rounds of PPO.

  Raises:
    ValueError: naming the setting, or what cannot be in the demonstrations.
  """
  for name, known in (('source', SOURCES), ('plant', tuple(PLANTS))):
    if demos[name] not in known:
      raise ValueError(f'demos.{name}={demos[name]!r} is not known; known: {", ".join(known)}.')
  passage = {name: value for name, value in forks.items() if name != 'filler_actions'}
  game = make_game(environment, seed, max_steps, passage)
  if environment == 'forks' and demos['source'] == 'expert':
    shown, truth = corridor.forks_demonstrations(seed, demos['episodes'], **forks)
    return Problem(game, shown, _cells(truth, block))
  if demos['source'] == 'expert':
    shown = expert_demonstrations(game, seed, demos)
  else:
    read = read_npz if demos['source'] == 'npz' else read_minari
    shown = fit(take(read(demos['path'], game.num_actions), demos['episodes'], demos['length']), game)
  cells_of(shown.length, block)
  if demos['plant'] == 'none':
    return Problem(game, shown, None)
  more = (game.num_actions,) if demos['plant'] == 'corrupt' else ()
  return Problem(game, *PLANTS[demos['plant']](shown, seed, demos['fraction'], block, *more))


def expert_demonstrations(environment: Environment, seed: int, demos: Mapping[str, Any]) -> Demonstrations:
  """Noisy play of the environment's expert, scripted or trained; see `make_problem`."""
  episodes, length, noise = demos['episodes'], demos['length'], demos['noise']
  if episodes < 1 or length < 1:
    raise ValueError(f'demos.episodes={episodes} and demos.length={length} must be at least 1 for an expert.')
  game = cached_expert(environment, ExpertOptions(updates=demos['expert_updates']), seed, demos['cache'])
  play = jax.jit(lambda key: noisy_expert(game, key, episodes, length, noise))
  observations, actions, _, first = jax.device_get(play(jax.random.key(seed)))
  return make_demonstrations(observations, actions, first=first, num_actions=environment.num_actions)


def _cells(truth: np.ndarray, block: int) -> np.ndarray:
  """Frames [E, T] -> cells: True where any frame is."""
  cells = cells_of(truth.shape[1], block)
  padded = np.pad(truth, ((0, 0), (0, cells * block - truth.shape[1])))
  return padded.reshape(len(truth), cells, block).any(axis=2)
