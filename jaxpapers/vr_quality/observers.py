"""Synthetic observers: where they look and how they rate, so that the truth is known."""

from typing import NamedTuple

import numpy as np

from jaxpapers.vr_quality.panoramas import Scenes
from jaxpapers.vr_quality.sphere import pixel_directions, solid_angles

SECONDS = (7, 15)


class Ratings(NamedTuple):
  """What observers did.

  Attributes:
    path: [scenes, starts, subjects, 15, 2] longitude and latitude once a second, radians.
    rating: [scenes, starts, times, subjects] float32, 1..5.
  """

  path: np.ndarray
  rating: np.ndarray

  @property
  def mos(self) -> np.ndarray:
    """Mean opinion scores [scenes, starts, times]."""
    return self.rating.mean(-1)


def observe(scenes: Scenes, seed: int, subjects: int = 12) -> Ratings:
  """A correlated random walk from each start with a pull to the equator, and a rating after 7 and after 15 seconds.

  The momentary severity is its mean over a 90 degree window around the gaze; a rating is 5 - 4 times the mean of the
  average and of the worst third so far, plus the subject's bias and noise, rounded to 1..5. Source: this library's own.
  """
  rng = np.random.default_rng((seed, 1))
  count = len(scenes.image)
  shape = (count, 2, subjects)
  gaze = np.broadcast_to(scenes.start[:, :, None], (*shape, 2)).astype(np.float64)
  step = np.zeros((*shape, 2))
  path = []
  for _ in range(max(SECONDS)):
    path.append(gaze)
    step = 0.7 * step + 0.22 * rng.normal(size=step.shape) - np.stack([np.zeros(shape), 0.15 * gaze[..., 1]], -1)
    gaze = np.stack([gaze[..., 0] + step[..., 0], np.clip(gaze[..., 1] + step[..., 1], -1.4, 1.4)], -1)
  path = np.stack(path, axis=3)
  seen = _window_means(scenes.severity, path)
  bias, rating = rng.normal(0, 0.2, subjects), []
  for seconds in SECONDS:
    worst = np.sort(seen[..., :seconds], axis=-1)[..., -(-seconds * 2 // 3) :].mean(-1)
    quality = 5 - 4 * (seen[..., :seconds].mean(-1) + worst) / 2 + bias + rng.normal(0, 0.4, shape)
    rating.append(np.clip(np.rint(quality), 1, 5))
  path[..., 0] = (path[..., 0] + np.pi) % (2 * np.pi) - np.pi
  return Ratings(path.astype(np.float32), np.stack(rating, axis=2).astype(np.float32))


def _window_means(severity: np.ndarray, path: np.ndarray) -> np.ndarray:
  """Mean severity within 45 degrees of every gaze: [scenes, ...] from maps [scenes, height, width]."""
  height, width = severity.shape[1] // 4, severity.shape[2] // 4
  coarse = severity.reshape(len(severity), height, 4, width, 4).mean((2, 4)).reshape(len(severity), -1)
  directions, areas = pixel_directions(height, width).reshape(-1, 3), solid_angles(height, width).reshape(-1)
  means = []
  for values, gaze in zip(coarse, path.reshape(len(path), -1, 2), strict=True):
    lon, lat = gaze.T
    toward = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    weights = (toward @ directions.T > np.cos(np.pi / 4)) * areas
    means.append(weights @ values / weights.sum(-1))
  return np.stack(means).reshape(path.shape[:-1])
