"""Demonstrations of your own: npz files and Minari data sets."""

import glob
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxpapers.r2rise.demos import Demonstrations, make_demonstrations, pad_trajectories, stack_frames
from jaxpapers.r2rise.environments import Environment

REQUIRED, OPTIONAL = ('observations', 'actions'), ('valid', 'first', 'last_observation', 'rewards')
INSTALL = 'pip install "jaxpapers[minari]"'


def read_npz(path: str, num_actions: int | None = None) -> Demonstrations:
  """Demonstrations from `path`: one file of many trajectories, or a folder or pattern of files of one each.

  One file holds `observations` [E, T, ...] (bool, uint8 pixels or floats) and `actions` [E, T] integers, and may hold
  `valid` [E, T] bool (False for padding), `first` [E, T] bool (True where an episode begins) and `last_observation`
  [E, ...]. In files of one trajectory each, read in the order of their names, observations are [t, ...] or
  [t + 1, ...] and actions [t]; lengths may differ. `rewards` are allowed everywhere and not used.

  Args:
    path: of a file, a folder of .npz files, or a pattern such as 'demos/*.npz'.
    num_actions: A of the environment, None for any.

  Raises:
    ValueError: naming the file, the field and the value that cannot be.
  """
  if not path:
    raise ValueError('demos.path is empty: name an .npz file, a folder of them, or a pattern.')
  pattern = os.path.join(path, '*.npz') if os.path.isdir(path) else path
  files = sorted(glob.glob(pattern)) or ([path] if os.path.exists(path) else [])
  if not files:
    raise ValueError(f'There are no demonstrations at {path}: no such file, or no .npz file in it.')
  parts = [_arrays(file) for file in files]
  try:
    if len(parts) == 1 and parts[0]['actions'].ndim != 1:
      given = {name: parts[0][name] for name in ('valid', 'first', 'last_observation') if name in parts[0]}
      return make_demonstrations(parts[0]['observations'], parts[0]['actions'], num_actions=num_actions, **given)
    for file, part in zip(files, parts, strict=True):
      if part['actions'].ndim != 1:
        raise ValueError(f'{file} holds actions of shape {part["actions"].shape}, not [t]: one trajectory a file.')
      if part['observations'].shape[1:] != parts[0]['observations'].shape[1:]:
        shapes = part['observations'].shape[1:], parts[0]['observations'].shape[1:]
        raise ValueError(f'{file} holds observations of shape {shapes[0]}, the first file of {shapes[1]}.')
    return pad_trajectories(*([part[name] for part in parts] for name in REQUIRED), num_actions=num_actions)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def _arrays(file: str) -> dict[str, np.ndarray]:
  """The arrays of a file."""
  try:
    with np.load(file, allow_pickle=False) as stored:
      if not hasattr(stored, 'files'):
        raise ValueError(f'{file} holds one array; an .npz file with {" and ".join(REQUIRED)} is needed.')
      missing = [name for name in REQUIRED if name not in stored.files]
      if missing:
        raise ValueError(f'{file} lacks {", ".join(missing)}; it holds {", ".join(stored.files) or "nothing"}.')
      return {name: stored[name] for name in (*REQUIRED, *OPTIONAL) if name in stored.files}
  except (OSError, EOFError, zipfile.BadZipFile) as error:
    raise ValueError(f'{file} cannot be read as .npz: {error}.') from error
  except ValueError as error:
    if 'allow_pickle' not in str(error):
      raise
    raise ValueError(f'{file} holds Python objects: store plain arrays; pad unequal lengths and add `valid`.') from None


def read_minari(name: str, num_actions: int | None = None, folder: str = '', limit: int = 0) -> Demonstrations:
  """Demonstrations from a local Minari data set (Farama), padded to its longest episode.

  Args:
    name: id, e.g. 'minigrid/fourrooms-v0'.
    num_actions: as in `read_npz`.
    folder: where data sets lie; '' means Minari's own place, $MINARI_DATASETS_PATH or ~/.minari/datasets.
    limit: episodes that are read, 0 for all.

  Raises:
    ValueError: if Minari or the data set is missing, or for what `make_demonstrations` refuses.
  """
  try:
    import minari
  except ImportError as error:
    raise ValueError(f'Minari data sets need the package minari: {INSTALL}.') from error
  if not name:
    raise ValueError("demos.path is empty: name a Minari data set, as 'minigrid/fourrooms-v0'.")
  try:
    source = minari.MinariDataset(Path(folder) / name / 'data') if folder else minari.load_dataset(name)
  except Exception as error:  # its storages raise what HDF5, JSON or Arrow do
    raise ValueError(
      f'The Minari data set {name} cannot be read ({error}); fetch it with: minari download {name}.'
    ) from error
  episodes = list(source.iterate_episodes(range(limit) if 0 < limit < source.total_episodes else None))
  if not episodes:
    raise ValueError(f'The Minari data set {name} holds no episode.')
  for field in ('observations', 'actions'):
    value = getattr(episodes[0], field)
    if not isinstance(value, np.ndarray):
      keys = f' with keys {", ".join(value)}' if isinstance(value, dict) else ''
      raise ValueError(f'{field} of {name} are a {type(value).__name__}{keys}: plain arrays are needed.')
  try:
    return pad_trajectories([e.observations for e in episodes], [e.actions for e in episodes], num_actions=num_actions)
  except ValueError as error:
    raise ValueError(f'{name}: {error}') from error


def take(demos: Demonstrations, episodes: int = 0, length: int = 0) -> Demonstrations:
  """The first `episodes` trajectories, cut after `length` frames (then without last observations); 0 takes all.

  Raises:
    ValueError: if there are fewer, or a trajectory has no frame left.
  """
  for name, wanted, there in (('episodes', episodes, demos.episodes), ('length', length, demos.length)):
    if wanted < 0 or wanted > there:
      raise ValueError(f'demos.{name}={wanted}, but the demonstrations have {there}.')
  e, t = episodes or demos.episodes, length or demos.length
  # What a cut trajectory saw after its cut is not told apart from an episode's end: it is left out.
  last = demos.last_observation[:e] if demos.last_observation is not None and t == demos.length else None
  return make_demonstrations(*(x[:e, :t] for x in demos[:4]), last_observation=last)


def fit(demos: Demonstrations, environment: Environment) -> Demonstrations:
  """Demonstrations as the environment's learners see them; single frames are stacked where it shows stacks.

  Raises:
    ValueError: if the observations have another shape or kind than the environment's.
  """
  shape, wanted = demos.observations.shape[2:], environment.observation_shape
  if len(wanted) == 3 and shape == wanted[:2]:
    stacked = stack_frames(demos.observations, demos.first, wanted[2])
    last = demos.last_observation
    if last is not None:
      last = np.concatenate([_final(stacked, demos.valid)[..., 1:], last[..., None]], axis=-1)
    demos, shape = demos._replace(observations=stacked, last_observation=last), wanted
  if shape != wanted:
    raise ValueError(f'observations have shape {shape}, but {environment.name} shows {wanted}.')
  state = environment.pure and _dtype(environment)
  if state and (state == np.uint8) != (demos.observations.dtype == np.uint8):
    raise ValueError(
      f'observations have dtype {demos.observations.dtype}, but {environment.name} shows {state}: pixels 0..255 are '
      'uint8 and are divided by 255, anything else is taken as it is.'
    )
  return demos


def _final(array: np.ndarray, valid: np.ndarray) -> np.ndarray:
  """[E, ...] of the last valid frame."""
  last = valid.shape[1] - 1 - np.argmax(valid[:, ::-1], axis=1)
  return array[np.arange(len(array)), last]


def _dtype(environment: Environment) -> Any:
  import jax

  return jax.eval_shape(lambda k: environment.observe(environment.reset(k[None])), jax.random.key(0)).dtype
