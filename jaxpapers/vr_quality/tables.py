"""Static tables of the pseudocylindrical representation: tile widths, circular resampling, halos.

A panorama is cut into `npart` horizontal tiles, and every tile is stored with as many columns as its latitude deserves.
All positions are rational numbers, so the tables are made with integers and are exact; NumPy, at trace time, kept.
"""

import functools
import math
from typing import NamedTuple

import numpy as np


class Taps(NamedTuple):
  """Output value = sum over k of weight[..., k] * input[index[..., k]] along the columns.

  Attributes:
    index: [tiles, (rows,) width, taps] int32.
    weight: the same shape, float64; zero in unused columns.
  """

  index: np.ndarray
  weight: np.ndarray

  def matrix(self, width: int) -> np.ndarray:
    """The same map as dense matrices [tiles, (rows,) output width, input width], float64."""
    matrix = np.zeros((*self.index.shape[:-1], width))
    for k in range(self.index.shape[-1]):
      part = np.zeros_like(matrix)
      np.put_along_axis(part, self.index[..., k : k + 1], self.weight[..., k : k + 1], axis=-1)
      matrix += part
    return matrix


class Halo(NamedTuple):
  """Where the rows above and below every tile come from.

  Attributes:
    rows: [tiles, 2 padding] int32 rows of the level (tile * tile height + row in it): those above, then those below.
    taps: [tiles, 2 padding, width, 2], how each is resampled to the tile's own width.
  """

  rows: np.ndarray
  taps: Taps


@functools.cache
def tile_ratios(npart: int) -> tuple[int, ...]:
  """Widths of the tiles in 64ths of a full row, r_g = ceil(64 cos((1/2 - (g + 1/2) / npart) pi)).

  Raises:
    ValueError: if npart < 2.
  """
  if npart < 2:
    raise ValueError(f'A sphere needs at least 2 tiles, not {npart}.')
  # cos is exact to 1e-16: what lies within 1e-9 of a whole number is one (60 degrees: 32, not 33).
  return tuple(math.ceil(64 * math.cos((0.5 - (g + 0.5) / npart) * math.pi) - 1e-9) for g in range(npart))


@functools.cache
def tile_widths(npart: int, width: int) -> tuple[int, ...]:
  """Valid columns of every tile where a full row has `width`, floor(r_g width / 64 + 1/2). Source: the authors' code.

  Raises:
    ValueError: if a tile would have no column.
  """
  widths = tuple((2 * ratio * width + 64) // 128 for ratio in tile_ratios(npart))
  if min(widths) < 1:
    raise ValueError(f'Rows of {width} columns are too short for {npart} tiles: the polar ones would be empty.')
  return widths


def valid_mask(npart: int, width: int) -> np.ndarray:
  """[tiles, width] bool, True in the valid columns. Source: the authors' code."""
  return np.arange(width) < np.asarray(tile_widths(npart, width))[:, None]


def width_groups(npart: int, width: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
  """Tiles of equal width: ((width, tile indices), ...), narrowest first."""
  widths = tile_widths(npart, width)
  return tuple((w, tuple(g for g in range(npart) if widths[g] == w)) for w in sorted(set(widths)))


def _positions(outputs: int, inputs: int, half_turns: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """(j + 1/2) / outputs * inputs - 1/2 on a circle of `inputs` samples, as whole part [outputs] and fraction [outputs].

  `half_turns` moves the outputs by so many half turns first.
  """
  doubled = (2 * np.arange(outputs) + 1 + half_turns * outputs) * inputs - outputs
  doubled %= 2 * outputs * inputs
  return doubled // (2 * outputs), doubled % (2 * outputs) / (2 * outputs)


def _catmull_rom(outputs: int, inputs: int) -> tuple[np.ndarray, np.ndarray]:
  """Four circular taps [outputs, 4] and their weights."""
  whole, t = _positions(outputs, inputs)
  index = (whole[:, None] + np.arange(-1, 3)) % inputs
  weight = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3)
  return index, np.stack(weight, axis=-1) / 2


def _padded(pairs: list[tuple[np.ndarray, np.ndarray]], width: int) -> Taps:
  """Taps of all tiles, zero beyond each one's own columns."""
  taps = pairs[0][0].shape[-1]
  index = np.zeros((len(pairs), width, taps), np.int32)
  weight = np.zeros((len(pairs), width, taps))
  for g, (i, w) in enumerate(pairs):
    index[g, : len(i)], weight[g, : len(i)] = i, w
  return Taps(index, weight)


@functools.cache
def slice_taps(npart: int, width: int) -> Taps:
  """Full rows of `width` samples -> the valid columns of every tile."""
  return _padded([_catmull_rom(w, width) for w in tile_widths(npart, width)], width)


@functools.cache
def unslice_taps(npart: int, width: int) -> Taps:
  """The valid columns of every tile -> full rows of `width` samples."""
  return _padded([_catmull_rom(width, w) for w in tile_widths(npart, width)], width)


@functools.cache
def halo(npart: int, height: int, width: int, padding: int) -> Halo:
  """Rows above and below every tile, by linear interpolation; beyond a pole, reflected and turned by half a turn.

  Args:
    npart: tiles.
    height: of one tile.
    width: of a full row.
    padding: rows on either side; it may exceed `height`.
  """
  widths, total = tile_widths(npart, width), npart * height
  rows = np.zeros((npart, 2 * padding), np.int32)
  pairs = []
  for g in range(npart):
    reach = [*range(g * height - padding, g * height), *range((g + 1) * height, (g + 1) * height + padding)]
    for r, row in enumerate(reach):
      crossed = 0
      while not 0 <= row < total:
        row = -row - 1 if row < 0 else 2 * total - 1 - row
        crossed += 1
      rows[g, r] = row
      source = widths[row // height]
      whole, fraction = _positions(widths[g], source, crossed)
      index = np.stack([whole, (whole + 1) % source], axis=-1)
      pairs.append((index, np.stack([1 - fraction, fraction], axis=-1)))
  taps = _padded(pairs, width)
  return Halo(rows, Taps(*(a.reshape(npart, 2 * padding, width, 2) for a in taps)))


@functools.cache
def edges(npart: int, width: int, padding: int) -> np.ndarray:
  """[tiles, 2 padding] int32: the columns that continue each tile to the left, then those to the right, wrapped."""
  steps = np.concatenate([np.arange(-padding, 0), np.arange(padding)])
  return (steps % np.asarray(tile_widths(npart, width))[:, None]).astype(np.int32)


@functools.cache
def tile_directions(npart: int, height: int, width: int) -> np.ndarray:
  """Unit vectors [tiles, height, width, 3] of the centres of all tile pixels; zero in unused columns."""
  out = np.zeros((npart, height, width, 3))
  for g, w in enumerate(tile_widths(npart, width)):
    lon = (np.arange(w) + 0.5) / w * 2 * np.pi - np.pi
    lat = (np.pi / 2 - (g * height + np.arange(height) + 0.5) / (npart * height) * np.pi)[:, None]
    one = np.ones((height, w))
    out[g, :, :w] = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat) * one], axis=-1)
  return out
