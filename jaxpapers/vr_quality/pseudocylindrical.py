"""The pseudocylindrical representation of a panorama as linear maps: slice, unslice, pad, trim.

Tensors are [batch, tiles, tile height, width, channels]; tile g is valid in its first `tile_widths(npart, width)[g]`
columns, and zero (or irrelevant) beyond. Every map is differentiable, and its gradient is its exact adjoint.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.vr_quality import tables
from jaxpapers.vr_quality.tables import Taps, tile_widths, valid_mask

MATRIX_WIDTH = 128  # row length up to which a dense matrix resamples faster than gathers (and their scatters backward)


def sphere_slice(image: jax.Array, npart: int) -> jax.Array:
  """Panoramas -> tiles: every row is resampled to its tile's width by circular Catmull-Rom interpolation.

  Source: Li et al.'s pseudocylindrical convolutions, as in the authors' code.

  Args:
    image: [batch, height, width, channels], floating.
    npart: tiles G; it divides the height.

  Returns:
    [batch, npart, height / npart, width, channels], zero in the unused columns.

  Raises:
    ValueError: naming height and npart if these do not divide.
  """
  chex.assert_rank(image, 4)
  batch, height, width, channels = image.shape
  if height % npart:
    raise ValueError(f'A panorama of height H = {height} cannot be cut into G = {npart} tiles of equal height.')
  tiles = image.reshape(batch, npart, height // npart, width, channels)
  return _resample(tiles, tables.slice_taps(npart, width))


def sphere_unslice(tiles: jax.Array) -> jax.Array:
  """Tiles [batch, npart, h, width, channels] -> panoramas [batch, npart * h, width, channels], the same kernel.

  Source: Li et al.'s pseudocylindrical convolutions, as in the authors' code.
  """
  chex.assert_rank(tiles, 5)
  batch, npart, height, width, channels = tiles.shape
  rows = _resample(tiles, tables.unslice_taps(npart, width))
  return rows.reshape(batch, npart * height, width, channels)


def pad(tiles: jax.Array, padding: int) -> jax.Array:
  """Continues every tile by `padding` pixels on all four sides as the sphere does.

  Rows above and below come from the neighbouring tiles (several away where padding > h, and over the poles) by linear
  interpolation; columns wrap at each tile's own width. All weights of an output sum to one.

  Source: Li et al.'s pseudocylindrical convolutions, as in the authors' code.

  Args:
    tiles: [batch, npart, h, width, channels]; what the unused columns hold is not read.
    padding: at least 0.

  Returns:
    [batch, npart, h + 2 padding, width + 2 padding, channels]: tile g is valid in its first w_g + 2 padding columns and
    zero beyond.
  """
  chex.assert_rank(tiles, 5)
  if padding == 0:
    return trim(tiles)
  batch, npart, height, width, channels = tiles.shape
  tiles = trim(tiles)
  halo = tables.halo(npart, height, width, padding)
  sources = tiles.reshape(batch, npart * height, width, channels)[:, halo.rows]
  rows = _resample(sources, halo.taps)
  rows = jnp.concatenate([rows[:, :, :padding], tiles, rows[:, :, padding:]], axis=2)
  ends = _columns(rows, tables.edges(npart, width, padding))
  blank = jnp.zeros((*rows.shape[:3], padding, channels), rows.dtype)
  out = jnp.concatenate([ends[:, :, :, :padding], rows, blank], axis=3)
  # The right halo starts at another column in every tile: placed by comparison, which fuses into one pass.
  column = np.arange(width + 2 * padding)
  for j in range(padding):
    here = column == np.asarray(tile_widths(npart, width))[:, None] + padding + j
    out = jnp.where(here[:, None, :, None], ends[:, :, :, padding + j, None], out)
  return out


def trim(tiles: jax.Array) -> jax.Array:
  """The same tiles with zeros in the unused columns. Source: the authors' code."""
  mask = valid_mask(tiles.shape[1], tiles.shape[3])
  return jnp.where(mask[:, None, :, None], tiles, jnp.zeros((), tiles.dtype))


def _resample(rows: jax.Array, taps: Taps) -> jax.Array:
  """Applies taps along the columns of [batch, tiles, rows, width, channels]; they may differ per row."""
  width = rows.shape[3]
  if width <= MATRIX_WIDTH:
    matrix = jnp.asarray(taps.matrix(width), rows.dtype)
    per_row = 'r' if matrix.ndim == 4 else ''
    return jnp.einsum(f'g{per_row}ow,ngrwc->ngroc', matrix, rows, precision=jax.lax.Precision.HIGHEST)
  index, weight = jnp.asarray(taps.index), jnp.asarray(taps.weight, rows.dtype)
  if index.ndim == 3:
    index, weight = index[:, None], weight[:, None]
  picked = (
    jnp.take_along_axis(rows, index[None, ..., k, None], axis=3, mode='promise_in_bounds') * weight[..., k, None]
    for k in range(index.shape[-1])
  )
  return sum(picked)


def _columns(rows: jax.Array, index: np.ndarray) -> jax.Array:
  """Columns index[g] of tile g: [batch, tiles, rows, width, channels] -> [batch, tiles, rows, picked, channels]."""
  if rows.shape[3] <= MATRIX_WIDTH:
    pick = jnp.asarray(index[..., None] == np.arange(rows.shape[3]), rows.dtype)
    return jnp.einsum('gow,ngrwc->ngroc', pick, rows, precision=jax.lax.Precision.HIGHEST)
  return jnp.take_along_axis(rows, jnp.asarray(index)[None, :, None, :, None], axis=3, mode='promise_in_bounds')
