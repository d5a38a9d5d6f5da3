"""What the authors' program makes of a map: images, time profiles and keep-masks by threshold. NumPy, float64."""

import numpy as np


def image_0_255(importance: np.ndarray) -> np.ndarray:
  """Min-max scaled to 0..255, any shape. A constant map becomes zeros."""
  low, high = importance.min(), importance.max()
  return (importance - low) / (high - low) * 255.0 if high > low else np.zeros_like(importance)


def profile(frames: np.ndarray, block: int) -> np.ndarray:
  """[E, T] -> [T / block]: sums over trajectories and over the frames of a block."""
  starts = np.arange(0, frames.shape[1], block)
  return np.add.reduceat(frames.sum(axis=0), starts)


def grouped_profile(values: np.ndarray, groups: int) -> np.ndarray:
  """[cells] -> [groups]: sums of neighbouring cells, min-max normalised."""
  sums = values.reshape(groups, -1).sum(axis=1)
  return (sums - sums.min()) / (sums.max() - sums.min())


def keep_least_important(importance: np.ndarray, q: float) -> np.ndarray:
  """Keeps what is at most the value at place int(n q) of the sorted map: at least a share q; ties stay together."""
  ordered = np.sort(importance, axis=None)
  return importance <= ordered[min(int(ordered.size * q), ordered.size - 1)]


def keep_most_important(importance: np.ndarray, q: float) -> np.ndarray:
  """Keeps what is at least the value at place -int(n q) of the sorted map."""
  ordered = np.sort(importance, axis=None)
  return importance >= ordered[-max(int(ordered.size * q), 1)]
