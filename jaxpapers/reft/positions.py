"""Sine position embedding and reference points of feature maps."""

import math
from collections.abc import Sequence

import numpy as np


def sine_embedding(height: int, width: int, channels: int, normalize: bool = True) -> np.ndarray:
  """Position embedding of a map, [height, width, channels] float32: first the row's half, then the column's.

  Source: DETR's code.

  Args:
    height: of the map.
    width: of the map.
    channels: a multiple of 4.
    normalize: positions run from 0 to 2 pi; else they are 1, 2, ... pixels.

  Raises:
    ValueError: if the number of channels is no multiple of 4.
  """
  if channels % 4:
    raise ValueError(f'A sine embedding has a multiple of 4 channels, not {channels}.')
  half = channels // 2
  frequency = 10000.0 ** (2.0 * (np.arange(half) // 2) / half)

  def axis(count):
    place = np.arange(1.0, count + 1.0)
    if normalize:
      place = place / (count + 1e-6) * 2.0 * math.pi
    angle = place[:, None] / frequency
    return np.where(np.arange(half) % 2 == 0, np.sin(angle), np.cos(angle))

  rows = np.broadcast_to(axis(height)[:, None], (height, width, half))
  columns = np.broadcast_to(axis(width)[None], (height, width, half))
  return np.concatenate([rows, columns], axis=-1).astype(np.float32)


def reference_points(sizes: Sequence[tuple[int, int]]) -> np.ndarray:
  """Centre of every token of every level, seen from every level: [sum of h * w, levels, 2] float32, (x, y) in [0, 1].

  Source: Deformable DETR's code.

  Args:
    sizes: (height, width) of each level.
  """
  points = []
  for height, width in sizes:
    y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing='ij')
    points.append(np.stack([x, y], axis=-1).reshape(-1, 2))
  tokens = np.concatenate(points)
  return np.broadcast_to(tokens[:, None], (len(tokens), len(sizes), 2)).astype(np.float32)
