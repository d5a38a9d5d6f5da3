"""Pictures of what a quality model sees and says: viewports, tiles, quality over the sphere, the pull of the start."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patheffects import withStroke

from jaxpapers.vr_quality.model import QualityModel, normalise
from jaxpapers.vr_quality.panoramas import Scenes
from jaxpapers.vr_quality.pictures import frame_axis
from jaxpapers.vr_quality.pooling import scores_from_starts
from jaxpapers.vr_quality.pseudocylindrical import sphere_slice
from jaxpapers.vr_quality.sphere import pixel_directions, pixel_lonlat
from jaxpapers.vr_quality.tables import valid_mask
from jaxpapers.vr_quality.viewport import viewport

_EXTENT = (-180, 180, -90, 90)
_STARTS = (9, 18)  # grid of starting directions whose score is drawn


def film_strip(page: Any, image: np.ndarray, paths: np.ndarray, labels: Sequence[str], caption: str) -> None:
  """The panorama with scanpaths, and below it what is seen along each of them.

  Args:
    page: the engine's report.
    image: [height, width, 3] uint8.
    paths: [rows, time, 2] longitude and latitude, radians.
    labels: of the points in time.
    caption: of the picture.
  """
  see = functools.partial(viewport, size=(160, 160), method='catmull_rom')
  seen = jax.jit(jax.vmap(jax.vmap(see, (None, 0, 0)), (None, 0, 0)))(image, paths[..., 0], paths[..., 1])
  seen = np.clip(np.asarray(seen), 0, 255).astype(np.uint8)
  rows, times = paths.shape[:2]
  figure = plt.figure(figsize=(1.6 * times, 1.6 * (rows + times / 2.6)), layout='constrained')
  grid = figure.add_gridspec(1 + rows, times, height_ratios=[times / 2.2, *[1] * rows])
  axis = figure.add_subplot(grid[0, :])
  axis.imshow(image, extent=_EXTENT)
  for row, path in enumerate(np.rad2deg(paths)):
    axis.plot(*_across(path), '-', color=f'C{row}', lw=1)
    axis.plot(path[:, 0], path[:, 1], 'o', ms=4, color=f'C{row}', mec='white', mew=0.6)
  frame_axis(axis)
  for row in range(rows):
    for time in range(times):
      axis = figure.add_subplot(grid[1 + row, time])
      axis.imshow(seen[row, time])
      axis.set(xticks=(), yticks=(), title=labels[time] if row == 0 else '')
      axis.spines[:].set(color=f'C{row}', linewidth=2)
  page.figure('film_strip', figure, caption)
  plt.close(figure)


def maps(page: Any, model: QualityModel, state: Any, batch: Any, scenes: Scenes) -> None:
  """Quality over the sphere beside the truth, and the score from every starting direction with its gradient."""
  count = min(3, len(scenes.image))
  frames = batch['frames'][: 2 * count : 2]
  directions = jnp.asarray(pixel_directions(*_STARTS).reshape(-1, 3), jnp.float32)

  @jax.jit
  def field(variables, frames):
    out = model.apply(variables, normalise(frames))
    if model.pooling != 'visibility':
      return out.map, None
    k = jax.nn.softplus(variables['params']['concentration'][:, 0])
    return out.map, jax.vmap(lambda x: scores_from_starts(x, k, directions))(out.map)

  found, starts = jax.device_get(field(state.variables(), frames))
  names = ['scene', 'true severity', 'quality map', 'score by start'][: 3 if starts is None else 4]
  figure, axes = plt.subplots(
    len(names), count, figsize=(3.4 * count, 1.9 * len(names)), squeeze=False, layout='constrained'
  )
  lon, lat = (np.rad2deg(a) for a in pixel_lonlat(*_STARTS))
  for column in range(count):
    axes[0, column].imshow(frames[column, 0], extent=_EXTENT)
    axes[1, column].imshow(scenes.severity[column], cmap='magma', vmin=0, vmax=1, extent=_EXTENT)
    axes[2, column].imshow(found[column, 0], cmap='viridis', extent=_EXTENT)
    if starts is not None:
      scores, slopes = starts[0][column].reshape(_STARTS), starts[1][column].reshape(*_STARTS, 2)
      axes[3, column].imshow(scores, cmap='viridis', extent=_EXTENT, interpolation='bilinear')
      axes[3, column].quiver(lon, lat, slopes[..., 0], slopes[..., 1], color='white', width=0.004)
    for axis in axes[1:, column]:
      for start, letter in zip(np.rad2deg(scenes.start[column]), 'AB', strict=True):
        text = axis.text(*start, letter, color='white', ha='center', va='center', fontsize=9, fontweight='bold')
        text.set_path_effects([withStroke(linewidth=2, foreground='black')])
  for axis, title in zip(axes[:, 0], names, strict=True):
    axis.set_ylabel(title)
  for axis in axes.flat:
    axis.set(xticks=(), yticks=(), xlim=(-180, 180), ylim=(-90, 90))
  caption = 'Where the model finds the quality bad (dark), beside the truth; A and B are the starting points.'
  if starts is not None:
    caption += ' Last row: the score after 7 s from every start (bright is better), arrows along its gradient.'
  page.figure('quality_map', figure, caption)
  plt.close(figure)


def tiles(page: Any, npart: int, image: np.ndarray) -> None:
  """The tiles of a panorama [height, width, 3] uint8 as they are stored; unused columns dark."""
  stored = np.asarray(jax.jit(sphere_slice, static_argnums=1)(jnp.asarray(image, jnp.float32)[None], npart))[0]
  mask = valid_mask(npart, image.shape[1])
  shown = np.where(mask[:, None, :, None], np.clip(stored, 0, 255), 25).astype(np.uint8)
  figure, axes = plt.subplots(npart, 1, figsize=(6, 3.4), layout='constrained', squeeze=False)
  for g, axis in enumerate(axes[:, 0]):
    axis.imshow(shown[g], aspect='auto')
    axis.set(xticks=(), yticks=())
    axis.set_ylabel(f'{mask[g].sum()}', rotation=0, ha='right', va='center', fontsize=8)
  figure.supylabel('tiles and their columns', fontsize=9)
  share = 100 * mask.mean()
  page.figure(
    'tiles', figure, f'A panorama as {npart} pseudocylindrical tiles; unused columns dark, {share:.0f} % used.'
  )
  plt.close(figure)


def _across(path: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Longitudes and latitudes of a path [time, 2] in degrees, broken where it crosses the seam."""
  seam = np.flatnonzero(np.abs(np.diff(path[:, 0])) > 180) + 1
  return np.insert(path[:, 0], seam, np.nan), np.insert(path[:, 1], seam, np.nan)
