"""The embedded clips: seamless scenes on the sphere with one localised distortion each.

A scene is a function of direction, so it has no seam: a gradient of sky and ground, random cosines at three scales, and
longitude bands. A distortion (blur, noise or 8x8 flattening) is strong within a window on the sphere, weak elsewhere.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from jaxpapers.engine.errors import UserError
from jaxpapers.vr_quality.sphere import pixel_directions, pixel_lonlat

PHOTOGRAPHS = 'panoramas_cc0.npz'
KINDS = ('blur', 'noise', 'blocks')
WINDOW = np.deg2rad(50.0)
APART = np.deg2rad(150.0)  # of the two starting points, as in the real tables


class Scenes(NamedTuple):
  """Distorted panoramas whose distortion is known.

  Attributes:
    image: [scenes, height, width, 3] uint8.
    severity: [scenes, height, width] float32 in [0, 1].
    start: [scenes, 2, 2] longitude and latitude (radians) of start A, which faces the distortion, and start B.
    kind: [scenes], index into KINDS.
  """

  image: np.ndarray
  severity: np.ndarray
  start: np.ndarray
  kind: np.ndarray


def clean_scene(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """One undistorted scene [height, width, 3], float64 around 0.5."""
  d = pixel_directions(height, width)
  lon, _ = pixel_lonlat(height, width)
  sky, ground = rng.uniform(0.4, 0.8, 3), rng.uniform(0.2, 0.6, 3)
  image = ground + (sky - ground) / (1 + np.exp(-6 * d[..., 2:]))
  for wavenumber, amplitude, count in ((3.0, 0.10, 4), (9.0, 0.06, 6), (28.0, 0.09, 12)):
    k = rng.normal(size=(count, 3))
    k *= wavenumber / np.linalg.norm(k, axis=-1, keepdims=True)
    waves = np.cos(d @ k.T + rng.uniform(0, 2 * np.pi, count))
    image = image + waves @ rng.normal(0, amplitude / np.sqrt(count), (count, 3)) * 1.4
  for _ in range(rng.integers(6, 11)):
    centre, half, top = rng.uniform(-np.pi, np.pi), rng.uniform(0.05, 0.2), rng.uniform(0.05, 0.5)
    inside = np.abs((lon - centre + np.pi) % (2 * np.pi) - np.pi) < half
    band = inside[None] & (d[..., 2] < top) & (d[..., 2] > -0.3)
    image = np.where(band[..., None], 0.5 * image + 0.5 * rng.uniform(0.1, 0.9, 3), image)
  return image


def photographs(folder: str | os.PathLike, height: int) -> np.ndarray:
  """[n, height, 2 height, 3] float64 in [0, 1]: the panoramas of `folder`/panoramas_cc0.npz, reduced by averaging.

  Raises:
    UserError: if the file cannot be read, or `height` does not divide that of its panoramas.
  """
  path = Path(folder) / PHOTOGRAPHS
  try:
    with np.load(path) as file:
      image = file['image']
  except (OSError, ValueError, KeyError) as error:
    raise UserError(f'{path} cannot be read as panoramas: {error}.') from error
  count, full, width, _ = image.shape
  if width != 2 * full or full % height or count < 2:
    raise UserError(f'{path} holds panoramas {image.shape}; two or more of H x 2H are needed, {height} dividing H.')
  step = full // height
  return image.reshape(count, height, step, 2 * height, step, 3).mean((2, 4)) / 255


def distort(image: np.ndarray, severity: np.ndarray, kind: int, rng: np.random.Generator) -> np.ndarray:
  """Applies KINDS[kind] with strength `severity` [height, width] to an image [height, width, 3]."""
  amount = severity[..., None]
  if KINDS[kind] == 'noise':
    return image + 0.3 * amount * rng.normal(size=image.shape)
  if KINDS[kind] == 'blocks':
    height, width, _ = image.shape
    means = image.reshape(height // 8, 8, width // 8, 8, 3).mean((1, 3))
    return image + 0.9 * amount * (means.repeat(8, 0).repeat(8, 1) - image)
  levels = [image] + [
    ndimage.gaussian_filter(image, (s, s, 0), mode=('nearest', 'wrap', 'nearest')) for s in (1.0, 2.5)
  ]
  half = np.clip(2 * amount, 0, 1)
  return levels[0] + half * (levels[1] - levels[0]) + np.clip(2 * amount - 1, 0, 1) * (levels[2] - levels[1])


def scenes(seed: int, count: int, height: int, width: int, photographs: np.ndarray | None = None) -> Scenes:
  """Generates scenes; the same for the same arguments. Source: this library's own.

  Args:
    seed: of all random numbers.
    count: how many.
    height: in pixels, a multiple of 8.
    width: twice the height.
    photographs: [n, height, width, 3] in [0, 1] real panoramas to draw the scenes from, turned at random.
  """
  if height % 8 or width != 2 * height:
    raise ValueError(f'Scenes are H x 2H with H a multiple of 8, not {height} x {width}.')
  rng = np.random.default_rng(seed)
  directions = pixel_directions(height, width)
  images, severities, starts, kinds = [], [], [], []
  for _ in range(count):
    if photographs is None:
      image = clean_scene(rng, height, width)
    else:
      image = np.roll(photographs[rng.integers(len(photographs))], rng.integers(width), axis=1)
    kind, lon, lat = rng.integers(len(KINDS)), rng.uniform(-np.pi, np.pi), rng.normal(0, 0.25)
    centre = np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    window = np.exp((directions @ centre - 1) / (1 - np.cos(WINDOW)))
    severity = np.clip(rng.uniform(0, 0.6) + rng.uniform(0, 1) * window, 0, 1)
    images.append(np.clip(distort(image, severity, kind, rng) * 255, 0, 255).astype(np.uint8))
    severities.append(severity.astype(np.float32))
    away = lon + rng.choice([-1, 1]) * APART + rng.normal(0, 0.2)
    starts.append([[lon, lat], [(away + np.pi) % (2 * np.pi) - np.pi, rng.normal(0, 0.1)]])
    kinds.append(kind)
  return Scenes(np.stack(images), np.stack(severities), np.asarray(starts, np.float32), np.asarray(kinds))
