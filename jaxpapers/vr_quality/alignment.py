"""Alignment of two scanpaths: dynamic time warping, discrete Fréchet distance, Levenshtein distance.

Each is a table T[i, j] over prefixes of the two paths whose entries depend on the three before. All entries of one
anti-diagonal are independent, so the table is a `lax.scan` over diagonals, which `vmap` turns into one program for all
pairs of paths. Paths are unit vectors [time, 3]; shorter paths are padded and their lengths given.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.vr_quality.sphere import PI, angle_between, to_lonlat

Combine = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]
Length = jax.Array | int | None


def distances(p: jax.Array, q: jax.Array) -> jax.Array:
  """Great-circle distances [n, m] in radians between the points of p [n, 3] and q [m, 3]."""
  chex.assert_shape([p, q], (None, 3))
  return angle_between(p[:, None, :], q[None, :, :])


def dtw(p: jax.Array, q: jax.Array, p_length: Length = None, q_length: Length = None) -> jax.Array:
  """Dynamic time warping: least sum of distances over steps (1, 0), (0, 1), (1, 1); not normalised, radians.

  Source: Sakoe and Chiba, 1978.

  Args:
    p: [n, 3] unit vectors.
    q: [m, 3] unit vectors.
    p_length: points of p that count, at least 1; None: all.
    q_length: of q.
  """
  return _last(distances(p, q), lambda c, up, left, corner: c + _least(up, left, corner), _barred, p_length, q_length)


def frechet(p: jax.Array, q: jax.Array, p_length: Length = None, q_length: Length = None) -> jax.Array:
  """Discrete Fréchet distance: least possible largest distance over the same steps, radians; arguments of `dtw`.

  Source: Eiter and Mannila, 1994.
  """

  def combine(c, up, left, corner):
    return jnp.maximum(c, _least(up, left, corner))

  return _last(distances(p, q), combine, _barred, p_length, q_length)


def levenshtein(
  p: jax.Array,
  q: jax.Array,
  p_length: Length = None,
  q_length: Length = None,
  *,
  columns: int = 12,
  rows: int = 8,
) -> jax.Array:
  """Edits between the sequences of equal-angle cells that two paths visit, unit costs; int32; arguments of `dtw`.

  Source: this library's own.

  Args:
    p: [n, 3] unit vectors.
    q: [m, 3] unit vectors.
    p_length: points of p that count; None: all.
    q_length: of q.
    columns: cells in longitude.
    rows: cells in latitude.
  """
  chex.assert_shape([p, q], (None, 3))
  unlike = cells(p, columns, rows)[:, None] != cells(q, columns, rows)[None, :]

  def combine(c, up, left, corner):
    return _least(up + 1, left + 1, corner + c)

  edits = _last(unlike.astype(jnp.result_type(p)), combine, np.add, p_length, q_length)
  return jnp.round(edits).astype(jnp.int32)


def cells(p: jax.Array, columns: int = 12, rows: int = 8) -> jax.Array:
  """Number of the equal-angle cell of every direction, int32 [...] of p [..., 3], row by row from the zenith."""
  lon, lat = to_lonlat(p)
  column = jnp.floor((lon / (2 * PI) + 0.5) * columns).astype(jnp.int32) % columns
  row = jnp.clip(jnp.floor((0.5 - lat / PI) * rows).astype(jnp.int32), 0, rows - 1)
  return row * columns + column


def _least(up: jax.Array, left: jax.Array, corner: jax.Array) -> jax.Array:
  return jnp.minimum(jnp.minimum(up, left), corner)


def _barred(i: np.ndarray, j: np.ndarray) -> np.ndarray:
  """Border values of a table whose paths must begin at both first points."""
  return np.where((i == 0) & (j == 0), 0.0, np.inf)


def _last(
  cost: jax.Array,
  combine: Combine,
  border: Callable[[np.ndarray, np.ndarray], np.ndarray],
  p_length: Length,
  q_length: Length,
) -> jax.Array:
  """T[p_length, q_length] of T[i, j] = combine(cost[i-1, j-1], T[i-1, j], T[i, j-1], T[i-1, j-1]).

  Args:
    cost: [n, m].
    combine: elementwise.
    border: (i, j) -> T where i or j is 0.
    p_length: 1..n or None for n.
    q_length: 1..m or None for m.
  """
  n, m = cost.shape
  p_length = n if p_length is None else p_length
  q_length = m if q_length is None else q_length
  i = np.arange(n + 1)[None, :]
  j = np.arange(n + m + 1)[:, None] - i
  outside, edge = (j < 0) | (j > m), (i == 0) | (j == 0)
  fixed = np.where(outside, np.inf, border(np.broadcast_to(i, j.shape), j)).astype(cost.dtype)
  # Rows that are one entry longer than the table is wide slide by one each: entry [d, i] is cost[i - 1, d - i - 1].
  wide = n + m + 1
  skewed = jnp.pad(cost, ((1, 0), (1, wide - m))).reshape(-1)[: (n + 1) * wide].reshape(n + 1, wide).T
  infinite = jnp.full(n + 1, jnp.inf, cost.dtype)

  def diagonal(carry, row):
    # What lay above in the diagonal before is the corner now.
    corner, last, result = carry
    number, costs, free, values = row
    up = jnp.concatenate([infinite[:1], last[:-1]])
    new = jnp.where(free, combine(costs, up, last, corner), values)
    # By comparison: an index that differs from pair to pair would be a gather in every step.
    result = jnp.where((number == p_length + q_length) & (i[0] == p_length), new, result)
    return (up, new, result), None

  rows = (np.arange(n + m + 1), skewed, ~(outside | edge), fixed)
  (_, _, result), _ = jax.lax.scan(diagonal, (infinite, infinite, jnp.zeros_like(infinite)), rows)
  return jnp.sum(result)
