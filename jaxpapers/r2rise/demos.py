"""Demonstrations: what they are, checks, padding, frame stacks, and planted ground truth. NumPy only."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Demonstrations(NamedTuple):
  """E trajectories of T frames, padded.

  Attributes:
    observations: [E, T, ...] bool, uint8 (pixels) or floating.
    actions: [E, T] int32 in [0, A), or [E, T, ...] float32 for continuous ones.
    valid: [E, T] bool, False for padding.
    first: [E, T] bool, True where an episode begins inside its trajectory.
    last_observation: [E, ...], what was seen after the last valid action, or None.
  """

  observations: np.ndarray
  actions: np.ndarray
  valid: np.ndarray
  first: np.ndarray
  last_observation: np.ndarray | None = None

  @property
  def episodes(self) -> int:
    """E."""
    return self.valid.shape[0]

  @property
  def length(self) -> int:
    """T."""
    return self.valid.shape[1]


def make_demonstrations(
  observations: np.ndarray,
  actions: np.ndarray,
  valid: np.ndarray | None = None,
  first: np.ndarray | None = None,
  last_observation: np.ndarray | None = None,
  num_actions: int | None = None,
) -> Demonstrations:
  """Checked demonstrations.

  Args:
    observations: [E, T, ...].
    actions: [E, T] integers, or floats for continuous actions.
    valid: [E, T] bool; by default all frames are.
    first: [E, T] bool; by default an episode begins at frame 0 only.
    last_observation: [E, ...] or None.
    num_actions: A, with which integer actions are compared.

  Raises:
    ValueError: naming the field and the value that cannot be.
  """
  observations, actions = np.asarray(observations), np.asarray(actions)
  if observations.ndim < 2 or actions.ndim < 2 or not actions.size:
    raise ValueError(
      f'The demonstrations are empty or have no [episodes, frames] axes: observations {observations.shape}, '
      f'actions {actions.shape}.'
    )
  if observations.shape[:2] != actions.shape[:2]:
    raise ValueError(
      f'observations have {observations.shape[:2]} [episodes, frames] but actions {actions.shape[:2]}: there must be '
      'one action per observation.'
    )
  shape = actions.shape[:2]
  valid = np.ones(shape, bool) if valid is None else np.asarray(valid, bool)
  if first is None:
    first = np.zeros(shape, bool)
    first[:, 0] = True
  for name, value in (('valid', valid), ('first', np.asarray(first))):
    if value.shape != shape:
      raise ValueError(f'{name} has shape {value.shape}, not {shape}.')
  if not valid.any(axis=1).all():
    raise ValueError(f'valid marks no frame of trajectory {int(np.argmin(valid.any(axis=1)))}: it is empty.')
  if observations.dtype.kind not in 'bf' and observations.dtype != np.uint8:
    raise ValueError(f'observations have dtype {observations.dtype}: bool, uint8 (pixels 0..255) or floats are needed.')
  if last_observation is not None and last_observation.shape != (shape[0], *observations.shape[2:]):
    raise ValueError(f'last_observation has shape {last_observation.shape}, not {(shape[0], *observations.shape[2:])}.')
  if observations.dtype.kind == 'f' and not np.isfinite(observations[valid]).all():
    episode, frame = np.argwhere(valid & ~np.isfinite(observations).reshape(*shape, -1).all(axis=-1))[0]
    raise ValueError(f'observations hold NaN or infinity at trajectory {episode}, frame {frame}.')
  if actions.dtype.kind in 'iu':
    top = np.inf if num_actions is None else num_actions
    bad = valid & ((actions < 0) | (actions >= top))
    if bad.any():
      episode, frame = np.argwhere(bad)[0]
      raise ValueError(
        f'actions hold {actions[episode, frame]} at trajectory {episode}, frame {frame}; '
        f'they must lie in [0, {num_actions if num_actions is not None else "A"}).'
      )
    actions = np.where(valid, actions, 0).astype(np.int32)
  elif actions.dtype.kind == 'f' and num_actions is None:
    actions = actions.astype(np.float32)
  else:
    raise ValueError(f'actions have dtype {actions.dtype}; this environment takes integers in [0, {num_actions}).')
  if observations.dtype == np.float64:
    observations = observations.astype(np.float32)
  return Demonstrations(observations, actions, valid, np.asarray(first, bool) & valid, last_observation)


def pad_trajectories(
  observations: Sequence[np.ndarray], actions: Sequence[np.ndarray], num_actions: int | None = None
) -> Demonstrations:
  """Trajectories of unlike lengths, padded at the end to the longest.

  Args:
    observations: per trajectory [t, ...] or [t + 1, ...] (with what was seen after the last action; all or none).
    actions: per trajectory [t] or [t, ...].
    num_actions: as in `make_demonstrations`.

  Raises:
    ValueError: for no trajectory, an empty one, or lengths that do not fit.
  """
  if not observations or len(observations) != len(actions):
    raise ValueError(
      f'{len(observations)} observation arrays and {len(actions)} action arrays: both must be equal and above 0.'
    )
  lengths = [len(a) for a in actions]
  extra = {len(o) - n for o, n in zip(observations, lengths, strict=True)}
  if min(lengths) == 0:
    raise ValueError(f'Trajectory {lengths.index(0)} is empty.')
  if not extra <= {0} and not extra <= {1}:
    raise ValueError(
      f'observations have lengths {[len(o) for o in observations][:8]} but actions {lengths[:8]}: every trajectory '
      'needs as many observations as actions, or every one needs one more.'
    )
  longest = max(lengths)

  def pad(x: np.ndarray, n: int) -> np.ndarray:
    x = np.asarray(x)[:n]
    return np.concatenate([x, np.repeat(x[-1:], longest - n, axis=0)])

  valid = np.arange(longest) < np.asarray(lengths)[:, None]
  last = np.stack([o[-1] for o in observations]) if extra == {1} else None
  stacked = [np.stack([pad(x, n) for x, n in zip(xs, lengths, strict=True)]) for xs in (observations, actions)]
  return make_demonstrations(*stacked, valid=valid, last_observation=last, num_actions=num_actions)


def stack_frames(frames: np.ndarray, first: np.ndarray, depth: int) -> np.ndarray:
  """The last `depth` frames at every step, oldest first; before the start of an episode its first frame is repeated.

  Args:
    frames: [E, T, H, W].
    first: [E, T] bool, where episodes begin.
    depth: frames in a stack.

  Returns:
    [E, T, H, W, depth].
  """
  steps = np.arange(frames.shape[1])
  begin = np.maximum.accumulate(np.where(first, steps, 0), axis=1)
  index = np.maximum(steps[None, :, None] - np.arange(depth - 1, -1, -1), begin[:, :, None])
  return np.moveaxis(frames[np.arange(len(frames))[:, None, None], index], 2, -1)


def transition_index(demos: Demonstrations) -> tuple[np.ndarray, np.ndarray]:
  """(next [E * T] int32, whole [E * T] bool): the frame after each frame, among the frames and then the last ones.

  Frames are numbered episode * T + t; E * T + episode is `last_observation`. `whole` is False where what follows is
  not known: padding, an episode's end inside a trajectory, or the end without `last_observation`.
  """
  e, t = demos.valid.shape
  follows = np.zeros((e, t), bool)
  follows[:, :-1] = demos.valid[:, 1:] & ~demos.first[:, 1:]
  index = np.arange(e * t).reshape(e, t) + 1
  if demos.last_observation is not None:
    final = demos.valid & ~np.pad(demos.valid[:, 1:], ((0, 0), (0, 1)))
    index = np.where(final, e * t + np.arange(e)[:, None], index)
    follows |= final
  whole = follows & demos.valid
  return np.where(whole, index, 0).reshape(-1).astype(np.int32), whole.reshape(-1)


def planted_cells(seed: int, episodes: int, cells: int, fraction: float) -> np.ndarray:
  """[E, cells] bool with round(fraction * E * cells) True, at random.

  Raises:
    ValueError: for a fraction outside (0, 1).
  """
  if not 0.0 < fraction < 1.0:
    raise ValueError(f'fraction={fraction} must lie in (0, 1).')
  total = episodes * cells
  chosen = np.random.default_rng(seed).permutation(total) < round(fraction * total)
  return chosen.reshape(episodes, cells)


def corrupt(
  demos: Demonstrations, seed: int, fraction: float, block: int, num_actions: int
) -> tuple[Demonstrations, np.ndarray]:
  """Wrong actions in a fraction of the blocks.

  Returns:
    (demonstrations, truth [E, cells] bool: True where the block is clean).
  """
  cells = -(-demos.length // block)
  spoilt = planted_cells(seed, demos.episodes, cells, fraction)
  wrong = np.random.default_rng([seed, 1]).integers(1, num_actions, demos.actions.shape)
  frames = np.repeat(spoilt, block, axis=1)[:, : demos.length]
  actions = np.where(frames & demos.valid, (demos.actions + wrong) % num_actions, demos.actions)
  return demos._replace(actions=actions.astype(np.int32)), ~spoilt


def freeze(demos: Demonstrations, seed: int, fraction: float, block: int) -> tuple[Demonstrations, np.ndarray]:
  """A fraction of the blocks replaced by copies of their first frame ('noop'): they teach one frame instead of many.

  Returns:
    (demonstrations, truth [E, cells] bool: True where the block is untouched).
  """
  cells = -(-demos.length // block)
  frozen = planted_cells(seed, demos.episodes, cells, fraction)
  steps = np.arange(demos.length)
  source = np.where(np.repeat(frozen, block, axis=1)[:, : demos.length], steps // block * block, steps)
  rows = np.arange(demos.episodes)[:, None]
  return demos._replace(observations=demos.observations[rows, source], actions=demos.actions[rows, source]), ~frozen
