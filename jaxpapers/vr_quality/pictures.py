"""Drawings on the panorama, on a globe and over time that several reports share."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from jaxpapers.vr_quality.scanpath_statistics import pairwise_over_time, resultant_over_time
from jaxpapers.vr_quality.sphere import lonlat_to_pixel

_EXTENT = (-180, 180, -90, 90)


def degrees(paths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Longitude and latitude [...] in degrees of directions [..., 3]."""
  return np.rad2deg(np.arctan2(paths[..., 1], paths[..., 0])), np.rad2deg(np.arcsin(np.clip(paths[..., 2], -1, 1)))


def frame_axis(axis: Any, title: str = '') -> None:
  """Ticks and limits of a panorama in degrees."""
  axis.set(xlim=(-180, 180), ylim=(-90, 90), title=title, xticks=range(-180, 181, 60), yticks=range(-90, 91, 45))
  axis.set_aspect('equal')


def scanpaths_on_erp(axis: Any, paths: np.ndarray, image: np.ndarray | None = None, title: str = '') -> Any:
  """All paths [observers, time, 3] over a panorama, coloured by time; returns the dots for a colour bar."""
  if image is not None:
    axis.imshow(image, extent=_EXTENT, alpha=0.6)
  lon, lat = degrees(paths)
  for x, y in zip(lon, lat, strict=True):
    # A line across the seam would run through the whole picture.
    seam = np.flatnonzero(np.abs(np.diff(x)) > 180) + 1
    axis.plot(np.insert(x, seam, np.nan), np.insert(y, seam, np.nan), color='grey', lw=0.5, alpha=0.6)
  time = np.broadcast_to(np.arange(paths.shape[1]), lon.shape)
  dots = axis.scatter(lon.ravel(), lat.ravel(), c=time.ravel(), cmap='viridis', s=10)
  axis.scatter(lon[:, 0], lat[:, 0], marker='*', color='crimson', s=110, zorder=3)
  frame_axis(axis, title)
  return dots


def overlay(axis: Any, density: np.ndarray, paths: np.ndarray, image: np.ndarray | None = None) -> None:
  """A density [height, width] over a panorama with the points of paths [observers, time, 3]."""
  if image is not None:
    axis.imshow(image, extent=_EXTENT)
  axis.imshow(density, extent=_EXTENT, cmap='magma', alpha=1.0 if image is None else 0.55, interpolation='bilinear')
  lon, lat = degrees(paths.reshape(-1, 3))
  axis.plot(lon, lat, '.', color='white', ms=1.5)
  frame_axis(axis)


def globe(axis: Any, values: np.ndarray, view: np.ndarray, title: str = '', size: int = 240) -> None:
  """Orthographic view of [height, width] or [height, width, 3] from outside, the direction `view` [3] in the middle."""
  y, x = np.mgrid[1 : -1 : size * 1j, -1 : 1 : size * 1j]
  inside = x**2 + y**2 <= 1.0
  depth = np.sqrt(np.where(inside, 1.0 - x**2 - y**2, 0.0))
  view = np.asarray(view, np.float64)
  east = np.cross([0.0, 0.0, 1.0], view)
  east = east / np.linalg.norm(east) if np.linalg.norm(east) > 1e-9 else np.array([0.0, 1.0, 0.0])
  north = np.cross(view, east)
  points = depth[..., None] * view + x[..., None] * east + y[..., None] * north
  lon, lat = np.arctan2(points[..., 1], points[..., 0]), np.arcsin(np.clip(points[..., 2], -1, 1))
  column, row = lonlat_to_pixel(lon, lat, *values.shape[:2])
  row = np.clip(np.round(row), 0, values.shape[0] - 1).astype(int)
  shown = np.asarray(values, np.float64)[row, np.round(column).astype(int) % values.shape[1]]
  shown = np.ma.masked_where(np.broadcast_to(~inside[..., None], shown.shape) if shown.ndim == 3 else ~inside, shown)
  axis.imshow(shown, extent=(-1, 1, -1, 1), cmap='magma')
  axis.add_patch(plt.Circle((0, 0), 1.0, fill=False, color='grey', lw=0.8))
  axis.set_title(title, fontsize=9)
  axis.axis('off')


def angle_histograms(page: Any, name: str, paths: Mapping[str, np.ndarray], caption: str) -> None:
  """Longitude and latitude of sets of directions [..., 3] beside directions uniform over the sphere."""
  figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), layout='constrained')
  for label, points in paths.items():
    lon, lat = degrees(points.reshape(-1, 3))
    left.hist(lon, bins=np.arange(-180, 181, 20), density=True, histtype='step', lw=1.8, label=label)
    right.hist(lat, bins=np.arange(-90, 91, 7.5), density=True, histtype='step', lw=1.8, label=label)
  grid = np.linspace(-90, 90, 181)
  left.axhline(1 / 360, color='black', ls=':', label='uniform on the sphere')
  right.plot(grid, np.cos(np.deg2rad(grid)) * np.pi / 360, color='black', ls=':', label='uniform on the sphere')
  left.set(xlabel='longitude, degrees', ylabel='density per degree')
  right.set(xlabel='latitude, degrees')
  right.legend(fontsize=8)
  page.figure(name, figure, caption)
  plt.close(figure)


def over_time(page: Any, name: str, sets: Mapping[str, np.ndarray], unit: str) -> None:
  """Mean distance between two observers and resultant length at every time, for sets of paths [observers, time, 3]."""
  figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout='constrained')
  for label, paths in sets.items():
    apart, resultant = (np.asarray(x) for x in _agreement(jnp.asarray(paths)))
    left.plot(np.rad2deg(apart), marker='.', label=label)
    right.plot(resultant, marker='.', label=label)
  left.axhline(90, color='black', ls=':', lw=1, label='uniform on the sphere')
  left.set(xlabel=f'time, {unit}', ylabel='mean distance of two observers, degrees', ylim=(0, None))
  right.set(xlabel=f'time, {unit}', ylabel='length of the mean direction', ylim=(0, 1.03))
  figure.legend(*left.get_legend_handles_labels(), loc='outside right upper', fontsize=8)
  page.figure(name, figure, 'How long the shared starting point matters: agreement of the observers over time.')
  plt.close(figure)


@jax.jit
def _agreement(paths: jax.Array) -> tuple[jax.Array, jax.Array]:
  return pairwise_over_time(paths), resultant_over_time(paths)
