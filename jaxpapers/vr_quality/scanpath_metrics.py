"""How alike two scanpaths are, and two sets of them. Radians; pure; under jit and vmap.

Paths are unit vectors [time, 3]. Where lengths are given, points from there on are padding. `all_pairs` runs a metric
over all pairs of two sets as one program. Alignments (`dtw`, `frechet`, `levenshtein`) are in `alignment.py`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxpapers.vr_quality.alignment import Length, distances
from jaxpapers.vr_quality.sphere import PI, angle_between

RADIUS = 12.0 / 180.0 * PI  # two points nearer than 12 degrees recur, unless told otherwise


class Recurrence(NamedTuple):
  """Cross-recurrence of two paths, percent.

  Attributes:
    rec: recurrent pairs of time steps among all.
    rec_upper: the same counted above the diagonal only, as common code has it.
    det: recurrent pairs in diagonal runs: how far one path repeats the order of the other.
    lam: recurrent pairs in vertical and horizontal runs: how far one dwells where the other passed.
    corm: centre of mass of the lag, positive where q follows p.
  """

  rec: jax.Array
  rec_upper: jax.Array
  det: jax.Array
  lam: jax.Array
  corm: jax.Array


def synchronous(p: jax.Array, q: jax.Array, p_length: Length = None, q_length: Length = None) -> jax.Array:
  """Mean distance at equal times over the common duration, radians. Source: this library's own.

  Args:
    p: [n, 3] unit vectors.
    q: [m, 3] unit vectors.
    p_length: points of p that count, at least 1; None: all.
    q_length: of q.
  """
  size = min(len(p), len(q))
  valid = jnp.arange(size) < jnp.minimum(_length(p, p_length), _length(q, q_length))
  return jnp.sum(jnp.where(valid, angle_between(p[:size], q[:size]), 0)) / jnp.sum(valid)


def hausdorff(p: jax.Array, q: jax.Array, p_length: Length = None, q_length: Length = None) -> jax.Array:
  """Largest distance from a point of either path to the nearest of the other, radians; arguments of `synchronous`.

  Source: this library's own.
  """
  gaps, rows, columns = distances(p, q), _valid(p, p_length), _valid(q, q_length)
  there = jnp.max(jnp.where(rows, jnp.min(jnp.where(columns[None, :], gaps, jnp.inf), axis=1), 0))
  back = jnp.max(jnp.where(columns, jnp.min(jnp.where(rows[:, None], gaps, jnp.inf), axis=0), 0))
  return jnp.maximum(there, back)


def time_delay_embedding(
  p: jax.Array,
  q: jax.Array,
  p_length: Length = None,
  q_length: Length = None,
  *,
  window: int = 3,
  reduce: str = 'mean',
) -> jax.Array:
  """For every window of q the distance to the closest window of p, radians; the mean or the largest. Not symmetric.

  The distance of two windows is sqrt(sum of squared distances) / window. A path shorter than `window` shortens it.

  Source: this library's own.

  Args:
    p: [n, 3] unit vectors.
    q: [m, 3] unit vectors.
    p_length: points of p that count; None: all.
    q_length: of q.
    window: points in a window.
    reduce: 'mean' or 'max'.

  Raises:
    ValueError: for another `reduce` or window.
  """
  if reduce not in ('mean', 'max') or window < 1:
    raise ValueError(f"Time-delay embedding needs window >= 1 and reduce 'mean' or 'max', not {window} and {reduce!r}.")
  n, m = _length(p, p_length), _length(q, q_length)
  short = jnp.minimum(jnp.minimum(n, m), window)
  square = jnp.pad(jnp.square(distances(p, q)), ((0, window - 1), (0, window - 1)))
  total = sum(jnp.where(s < short, square[s : s + len(p), s : s + len(q)], 0) for s in range(window))
  starts = (jnp.arange(len(p)) <= n - short)[:, None]
  nearest = jnp.sqrt(jnp.min(jnp.where(starts, total, jnp.inf), axis=0)) / short
  counted = jnp.arange(len(q)) <= m - short
  if reduce == 'max':
    return jnp.max(jnp.where(counted, nearest, 0))
  return jnp.sum(jnp.where(counted, nearest, 0)) / jnp.sum(counted)


def recurrence(
  p: jax.Array,
  q: jax.Array,
  p_length: Length = None,
  q_length: Length = None,
  *,
  radius: float = RADIUS,
  shortest_line: int = 2,
) -> Recurrence:
  """Cross-recurrence measures on the first min(n, m) points; all 0 where nothing recurs. Source: Anderson et al., 2013.

  Args:
    p: [n, 3] unit vectors.
    q: [m, 3] unit vectors.
    p_length: points of p that count; None: all.
    q_length: of q.
    radius: R_ij = distance < radius, in radians.
    shortest_line: least length of a run.
  """
  size = min(len(p), len(q))
  n = jnp.minimum(_length(p, p_length), _length(q, q_length))
  inside = jnp.arange(size) < n
  hits = (distances(p[:size], q[:size]) < radius) & inside[:, None] & inside[None, :]
  dtype = jnp.result_type(p)

  def count(x):
    return jnp.sum(x.astype(dtype))

  total, n = count(hits), jnp.asarray(n, dtype)
  lag = (jnp.arange(size)[None, :] - jnp.arange(size)[:, None]).astype(dtype)
  lines = [count(_in_runs(hits, step, shortest_line)) for step in ((1, 1), (0, 1), (1, 0))]
  per_hit = 1.0 / jnp.maximum(total, 1)
  lagged = jnp.sum(jnp.where(hits, lag, 0)) * per_hit / jnp.maximum(n - 1, 1)
  upper = count(hits & (lag > 0)) / jnp.maximum(n * (n - 1), 1)
  return Recurrence(
    100 * total / jnp.square(n),
    200 * upper,
    100 * lines[0] * per_hit,
    50 * (lines[1] + lines[2]) * per_hit,
    100 * lagged,
  )


@functools.partial(jax.jit, static_argnames='metric')
def all_pairs(
  metric: Callable[..., Any],
  paths: jax.Array,
  others: jax.Array | None = None,
  lengths: jax.Array | None = None,
  other_lengths: jax.Array | None = None,
) -> Any:
  """`metric` of every path with every other one, as one program.

  Args:
    metric: (p [n, 3], q [m, 3], p_length, q_length) -> pytree, e.g. `dtw`; options by functools.partial.
    paths: [a, n, 3] unit vectors, padded.
    others: [b, m, 3]; None: `paths` themselves.
    lengths: [a] int32; None: all points count.
    other_lengths: [b] int32.

  Returns:
    The pytree with leaves [a, b, ...].
  """
  if others is None:
    others, other_lengths = paths, lengths
  chex.assert_shape([paths, others], (None, None, 3))
  lengths = jnp.full(len(paths), paths.shape[1]) if lengths is None else lengths
  other_lengths = jnp.full(len(others), others.shape[1]) if other_lengths is None else other_lengths
  over_others = jax.vmap(metric, in_axes=(None, 0, None, 0))
  return jax.vmap(over_others, in_axes=(0, None, 0, None))(paths, others, lengths, other_lengths)


def mean_off_diagonal(matrix: jax.Array) -> jax.Array:
  """Mean over i != j of [a, a]: how alike the members of one set are (human consistency)."""
  a = len(matrix)
  chex.assert_shape(matrix, (a, a))
  return jnp.sum(jnp.where(jnp.eye(a, dtype=bool), 0, matrix)) / (a * (a - 1))


def _length(path: jax.Array, length: Length) -> jax.Array | int:
  return len(path) if length is None else length


def _valid(path: jax.Array, length: Length) -> jax.Array:
  return jnp.arange(len(path)) < _length(path, length)


def _in_runs(hits: jax.Array, step: tuple[int, int], least: int) -> jax.Array:
  """[n, n] bool: hits that lie in a run of at least `least` along (rows, columns) `step`: an opening."""
  n, reach = len(hits), least - 1
  pads = [(0, reach * s) for s in step]
  ahead = jnp.pad(hits, pads)
  starts = functools.reduce(jnp.logical_and, [_window(ahead, k, step, n) for k in range(least)])
  behind = jnp.pad(starts, [(after, before) for before, after in pads])
  return functools.reduce(jnp.logical_or, [_window(behind, k, step, n) for k in range(least)])


def _window(x: jax.Array, k: int, step: tuple[int, int], n: int) -> jax.Array:
  return x[k * step[0] : k * step[0] + n, k * step[1] : k * step[1] + n]
