"""Frames of demonstrations as pictures, and film strips of the cells that matter most and least."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from jaxpapers.r2rise.demos import Demonstrations
from jaxpapers.r2rise.importance import rank_cells

_CHANNELS = np.asarray(plt.get_cmap('tab10').colors)
_INK = np.array([0.08, 0.09, 0.12])


def render(observation: np.ndarray) -> np.ndarray:
  """A frame as a picture [H, W, 3] in 0..1.

  Args:
    observation: pixels [H, W, 4] uint8 (a stack: the newest is shown, with what moved since the oldest in colour),
      other maps [H, W, C] (a colour per channel) or [H, W], or a vector [n] (one row, scaled to its own range).
  """
  if observation.dtype == np.uint8 and observation.ndim == 3:
    newest, oldest = (observation[..., k].astype(np.float64) / 255 for k in (-1, 0))
    picture = np.stack([newest] * 3, axis=-1)
    # What was there three frames ago and is gone shows as a warm trace.
    trace = np.clip(oldest - newest, 0, 1)[..., None] * np.array([1.0, 0.45, 0.1])
    return np.clip(picture + trace, 0, 1)
  values = np.asarray(observation, np.float64)
  if observation.dtype == np.uint8:
    return np.stack([values / 255] * 3, axis=-1)
  if values.ndim == 1:
    span = np.ptp(values)
    values = ((values - values.min()) / span if span > 0 else values * 0)[None]
  if values.ndim == 2:
    return np.clip(_INK + values[..., None] * (_CHANNELS[1] - _INK), 0, 1)
  picture = np.broadcast_to(_INK, (*values.shape[:2], 3)).copy()
  # Later channels first: the first channels (player, ball) are drawn over them.
  for channel in range(values.shape[-1] - 1, -1, -1):
    weight = np.clip(values[..., channel, None], 0, 1)
    picture = picture * (1 - weight) + weight * _CHANNELS[channel % len(_CHANNELS)]
  return picture


def filmstrip_figure(
  demos: Demonstrations, value: np.ndarray, block: int, count: int = 8, truth: np.ndarray | None = None
) -> plt.Figure:
  """First frames of the `count` most important cells (above) and of the least important ones (below).

  Args:
    demos: E trajectories.
    value: [E, C] map; cells without a value are not shown.
    block: frames a cell.
    count: cells a row.
    truth: [E, C] bool or None: a tick marks cells that were made to matter.
  """
  order = [int(cell) for cell in rank_cells(value) if np.isfinite(value.reshape(-1)[int(cell)])]
  count = max(1, min(count, len(order) // 2))
  rows = (('most important', order[:count]), ('least important', order[::-1][:count]))
  pictures = render(demos.observations[0, 0])
  tall = float(np.clip(pictures.shape[0] / pictures.shape[1], 0.25, 1.6))
  figure, axes = plt.subplots(
    2, count, figsize=(1.55 * count, 2 * (1.55 * tall + 0.75)), layout='constrained', squeeze=False
  )
  for row, (name, chosen) in enumerate(rows):
    for axis, cell in zip(axes[row], chosen, strict=True):
      _frame(axis, demos, value, block, cell, truth)
    axes[row, 0].set_ylabel(name, fontsize=9)
  return figure


def _frame(
  axis: Any, demos: Demonstrations, value: np.ndarray, block: int, cell: int, truth: np.ndarray | None
) -> None:
  episode, column = divmod(cell, value.shape[1])
  frame = min(column * block, demos.length - 1)
  axis.imshow(render(demos.observations[episode, frame]), interpolation='nearest', aspect='auto')
  mark = '' if truth is None else (' planted' if truth[episode, column] else ' not planted')
  action = demos.actions[episode, frame]
  played = f'action {action}' if np.ndim(action) == 0 else 'action ...'
  axis.set_title(f'{value[episode, column]:+.2f}{mark}\nno. {episode}, frame {frame}\n{played}', fontsize=7)
  axis.set(xticks=[], yticks=[])
