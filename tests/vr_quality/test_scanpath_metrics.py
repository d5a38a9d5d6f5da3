"""Scanpath metrics against plain loops; ragged and single-point paths; symmetry and rotation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.vr_quality import scanpath_statistics as single
from jaxpapers.vr_quality.alignment import cells, dtw, frechet, levenshtein
from jaxpapers.vr_quality.scanpath_metrics import (
  all_pairs,
  hausdorff,
  mean_off_diagonal,
  recurrence,
  synchronous,
  time_delay_embedding,
)

RADIUS = 0.4
METRICS = {
  'dtw': dtw,
  'frechet': frechet,
  'levenshtein': levenshtein,
  'hausdorff': hausdorff,
  'synchronous': synchronous,
  'tde': time_delay_embedding,
  'tde_max': functools.partial(time_delay_embedding, reduce='max'),
  'recurrence': functools.partial(recurrence, radius=RADIUS),
}


def walks(seed, paths, time):
  rng = np.random.default_rng(seed)
  points = np.cumsum(rng.normal(0, 0.25, (paths, time, 3)), axis=1) + [1.5, 0, 0]
  return points / np.linalg.norm(points, axis=-1, keepdims=True)


PATHS, LENGTHS = walks(0, 5, 9), np.array([9, 1, 6, 2, 9])


@pytest.fixture(scope='module')
def compiled():
  """All metrics over all pairs, one program."""

  def everything(p, q, n, m):
    return {name: metric(p, q, n, m) for name, metric in METRICS.items()}

  return functools.partial(all_pairs, everything)


@pytest.fixture(scope='module')
def found(compiled):
  with jax.enable_x64(True):
    return jax.tree.map(np.asarray, compiled(jnp.asarray(PATHS), None, jnp.asarray(LENGTHS)))


def gaps(p, q):
  cross = np.linalg.norm(np.cross(p[:, None], q[None]), axis=-1)
  return np.arctan2(cross, p @ q.T)


def table(cost, combine, border):
  n, m = cost.shape
  t = np.full((n + 1, m + 1), np.inf)
  for i in range(n + 1):
    for j in range(m + 1):
      if i and j:
        t[i, j] = combine(cost[i - 1, j - 1], t[i - 1, j], t[i, j - 1], t[i - 1, j - 1])
      else:
        t[i, j] = border(i, j)
  return t[n, m]


def barred(i, j):
  return 0.0 if i == j == 0 else np.inf


def runs(hits, least):
  """Points in runs of at least `least` along rows."""
  total = 0
  for row in hits:
    count = 0
    for value in [*row, False]:
      if value:
        count += 1
      else:
        total += count if count >= least else 0
        count = 0
  return total


def reference(p, q):
  g = gaps(p, q)
  n, m = g.shape
  window = min(3, n, m)
  delays = [
    min(np.sqrt(sum(g[a + s, b + s] ** 2 for s in range(window))) / window for a in range(n - window + 1))
    for b in range(m - window + 1)
  ]
  a, b = (np.asarray(cells(jnp.asarray(x))) for x in (p, q))
  k = min(n, m)
  hits = g[:k, :k] < RADIUS
  total = hits.sum()
  lag = np.arange(k)[None, :] - np.arange(k)[:, None]
  diagonals = [np.diagonal(hits, offset) for offset in range(-k + 1, k)]
  percent = 100 / max(total, 1)
  return {
    'dtw': table(g, lambda c, *before: c + min(before), barred),
    'frechet': table(g, lambda c, *before: max(c, min(before)), barred),
    'levenshtein': table(
      (a[:, None] != b[None]).astype(float), lambda c, up, left, corner: min(up + 1, left + 1, corner + c), np.add
    ),
    'hausdorff': max(g.min(0).max(), g.min(1).max()),
    'synchronous': np.mean([g[t, t] for t in range(k)]),
    'tde': np.mean(delays),
    'tde_max': max(delays),
    'recurrence': (
      100 * total / k**2,
      200 * (hits & (lag > 0)).sum() / max(k * (k - 1), 1),
      percent * runs(diagonals, 2),
      percent / 2 * (runs(hits, 2) + runs(hits.T, 2)),
      percent * (lag * hits).sum() / max(k - 1, 1),
    ),
  }


def test_all_pairs_of_ragged_paths_equal_plain_loops(found):
  for i in range(len(PATHS)):
    for j in range(len(PATHS)):
      want = reference(PATHS[i, : LENGTHS[i]], PATHS[j, : LENGTHS[j]])
      for name, value in want.items():
        got = [x[i, j] for x in found[name]] if name == 'recurrence' else found[name][i, j]
        np.testing.assert_allclose(got, value, atol=1e-12, err_msg=f'{name} {i} {j}')


def test_distances_are_symmetric_and_vanish_for_equal_paths(found):
  for name in ('dtw', 'frechet', 'levenshtein', 'hausdorff', 'synchronous'):
    np.testing.assert_allclose(found[name], found[name].T, atol=1e-12)
    np.testing.assert_allclose(np.diagonal(found[name]), 0, atol=1e-12)
    assert mean_off_diagonal(found[name]) > 0.1
  np.testing.assert_allclose(np.diagonal(found['tde']), 0, atol=1e-12)


def test_a_common_rotation_changes_nothing_but_the_cells(found, compiled):
  q, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
  with jax.enable_x64(True):
    turned = compiled(jnp.asarray(PATHS @ (q * np.linalg.det(q)).T), None, jnp.asarray(LENGTHS))
  for name in set(METRICS) - {'levenshtein'}:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), turned[name], found[name])


def test_longer_runs_and_gradient():
  path = jnp.asarray(PATHS[0], jnp.float32)
  longest = jax.jit(functools.partial(recurrence, radius=RADIUS, shortest_line=4))(path, path)
  hits = gaps(PATHS[0], PATHS[0]) < RADIUS
  assert abs(longest.det - 100 / hits.sum() * runs([np.diagonal(hits, k) for k in range(-8, 9)], 4)) < 1e-3
  gradient = jax.jit(jax.grad(dtw))(path, jnp.asarray(PATHS[4], jnp.float32))
  assert np.all(np.isfinite(gradient)) and np.abs(gradient).max() > 0
  with pytest.raises(ValueError, match='median'):
    time_delay_embedding(path, path, reduce='median')


def test_statistics_of_known_paths():
  angle = np.linspace(0, np.pi / 2, 10)
  quarter = jnp.asarray(np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=-1))
  uniform = np.random.default_rng(0).normal(size=(4000, 3))
  uniform = jnp.asarray(uniform / np.linalg.norm(uniform, axis=1, keepdims=True))

  together = jnp.stack([quarter, quarter[::-1]])
  present = jnp.asarray([[True] * 10, [True] * 3 + [False] * 7])

  @jax.jit
  def measure(path, uniform):
    return (
      single.total_length(path),
      single.displacement(path),
      single.total_length(path, 4),
      single.resultant_length(path, 1),
      single.explored_solid_angle(path, 1),
      single.speed_spectrum(path, 2.0),
      (single.mean_absolute_latitude(uniform), single.resultant_length(uniform)),
      single.pairwise_over_time(together),
      single.pairwise_over_time(together, present),
      single.resultant_over_time(together),
    )

  length, away, part, still, seen, (frequency, power), spread, apart, alone, resultant = measure(quarter, uniform)
  assert abs(length - np.pi / 2) < 1e-6 and abs(part - np.pi / 6) < 1e-6 and abs(still - 1) < 1e-6
  np.testing.assert_allclose(away, angle, atol=1e-6)
  assert abs(seen / (2 * np.pi * (1 - np.cos(np.pi / 4))) - 1) < 0.02
  assert len(frequency) == len(power) and abs(np.sum(power)) < 1e-9
  assert abs(spread[0] - (np.pi / 2 - 1)) < 0.02 and spread[1] < 0.05
  np.testing.assert_allclose(apart, np.abs(angle - angle[::-1]), atol=1e-6)
  assert np.all(np.isnan(alone[3:])) and np.all(np.isfinite(alone[:3]))
  assert resultant[0] < 0.75
