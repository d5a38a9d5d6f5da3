"""Environments by name."""

from collections.abc import Mapping
from typing import Any

from jaxpapers.r2rise.atari import ROMS, make_atari
from jaxpapers.r2rise.breakout10 import make_breakout10
from jaxpapers.r2rise.environments import Environment
from jaxpapers.r2rise.forks import make_forks
from jaxpapers.r2rise.gymnax_games import make_gymnax

KNOWN = ('forks', 'breakout10', *sorted(ROMS), 'gymnax/NAME')


def make_game(name: str, seed: int, max_steps: int, forks: Mapping[str, Any] | None = None) -> Environment:
  """The environment `name`.

  Args:
    name: 'forks' or 'breakout10' (in this package), an Atari game ('breakout', 'beamrider', 'spaceinvaders' ...; needs
      the extra `atari`), or 'gymnax/' and an id of gymnax, as 'gymnax/Breakout-MinAtar' (needs the extra `gymnax`).
    seed: of the secret actions of the forks.
    max_steps: an episode is cut after so many decisions; the forks' corridor has its own length.
    forks: further arguments of `make_forks`.

  Raises:
    ValueError: for an unknown name (listing the known ones), or a package that is not installed (saying how to).
  """
  if name == 'forks':
    return make_forks(seed, **(forks or {}))
  if name == 'breakout10':
    return make_breakout10(max_steps)
  if name in ROMS:
    return make_atari(name, max_steps)
  if name.startswith('gymnax/'):
    return make_gymnax(name.removeprefix('gymnax/'), max_steps)
  raise ValueError(f'env={name!r} is not known; known: {", ".join(KNOWN)}.')
