"""Voxels against a loop over points, pillars against NumPy, and what cannot be voxelised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.cmt import pillars
from jaxpapers.cmt.lidar import lidar_branch, sparse_shape
from jaxpapers.cmt.voxelize import cells, check_points, grid_size, voxelize

PC_RANGE = (-2.0, -2.0, -1.0, 2.0, 2.0, 1.0)
VOXEL = (0.5, 0.5, 0.5)


def _loop(points, max_voxels, max_points):
  """The published program's rule, point by point."""
  voxels, lost = {}, set()
  for p in points:
    cell = np.floor((p[:3] - np.float32(PC_RANGE[:3])) / np.float32(VOXEL))
    if not np.all((cell >= 0) & (cell < [8, 8, 4])):
      continue
    place = tuple(int(c) for c in cell[::-1])
    if place not in voxels:
      if len(voxels) == max_voxels:
        lost.add(place)
        continue
      voxels[place] = []
    if len(voxels[place]) < max_points:
      voxels[place].append(p)
  return voxels, len(lost)


def test_equals_the_loop_over_points():
  max_voxels = 40
  rng = np.random.default_rng(0)
  points = rng.normal(0, 1.0, (500, 5)).astype(np.float32)
  points[:50, :3] = np.round(points[:50, :3] * 2) / 2  # on borders of cells and of the range
  padded = np.concatenate([points, np.zeros((9, 5), np.float32)])
  padded[-2:] = np.nan
  mask = np.arange(509) < 500
  got = jax.jit(lambda p, m: voxelize(p, m, PC_RANGE, VOXEL, max_voxels, 4))(padded, mask)
  want, lost = _loop(points, max_voxels, 4)
  used = len(want)
  assert int(got.lost) == lost and lost > 0
  np.testing.assert_array_equal(got.coords[:used], list(want))
  np.testing.assert_array_equal(got.counts[:used], [len(v) for v in want.values()])
  assert max(got.counts) == 4
  np.testing.assert_allclose(got.features[:used], [np.mean(v, 0) for v in want.values()], atol=1e-6)
  assert not np.any(got.counts[used:]) and np.all(got.coords[used:] == -1) and not np.any(got.features[used:])


def test_cells_round_as_division_does():
  voxel, low = np.float32(0.1), np.float32(-54.0)
  x = (np.arange(40, 1000, dtype=np.float32) * voxel + low).astype(np.float32)
  x = np.concatenate([np.nextafter(x, np.float32(-99)), x, np.nextafter(x, np.float32(99))])
  want = np.floor((x - low) / voxel)
  assert np.any(want != np.floor((x - low) * (np.float32(1) / voxel)))
  points = np.zeros((len(x), 5), np.float32)
  points[:, 0] = x
  size = (0.1, 0.1, 0.2)
  place, inside = jax.jit(lambda p: cells(p, jnp.ones(len(x), bool), (-54, -54, -5, 54, 54, 3), size))(points)
  assert inside.all()
  np.testing.assert_array_equal(place[:, 0], want)


def test_pillars_equal_numpy_and_ignore_padding_and_points_outside():
  rng = np.random.default_rng(1)
  points = rng.uniform(-2.5, 2.5, (60, 5)).astype(np.float32)
  mask = np.arange(60) < 55
  points[~mask] = np.nan
  index = np.asarray(jax.jit(lambda p, m: pillars.pillar_index(p, m, PC_RANGE, (0.5, 1.0)))(points, mask))
  inside = mask & np.all((points[:, :3] >= PC_RANGE[:3]) & (points[:, :3] < PC_RANGE[3:]), 1)
  assert 0 < inside.sum() < 55 and np.all(index[~inside] == 32)
  kept = points[inside]
  column, row = np.floor((kept[:, 0] + 2) / 0.5), np.floor(kept[:, 1] + 2)
  np.testing.assert_array_equal(index[inside], row * 8 + column)
  known = np.asarray(jax.jit(lambda p, i: pillars.pillar_inputs(p, i, PC_RANGE, (0.5, 1.0)))(points, index))
  means = np.stack([kept[index[inside] == i, :3].mean(0) for i in index[inside]])
  np.testing.assert_allclose(known[inside, 5:8], kept[:, :3] - means, atol=1e-5)
  assert np.abs(known[inside, 8:]).max() <= 0.5 + 1e-5
  assert not np.any(known[~inside])


def test_the_map_of_pillars_has_its_maxima_in_place():
  branch = pillars.PillarBranch(PC_RANGE, (0.5, 1.0), 6, (3,), (1,))
  points, mask = np.zeros((2, 7, 5), np.float32), np.zeros((2, 7), bool)
  points[0, :, :2], mask[0] = (1.2, -1.5), True
  variables = jax.jit(branch.init)(jax.random.key(0), points, mask)
  bev, lost = jax.jit(branch.apply)(variables, points, mask)
  assert bev.shape == (2, 4, 8, 3) and lost == {}
  empty = np.asarray(bev[1, 2, 4])
  changed = np.argwhere(np.any(np.abs(np.asarray(bev[0] - bev[1])) > 1e-6, -1))
  assert len(changed) and np.all(np.abs(changed - [0, 6]) <= 1) and np.all(np.isfinite(empty))
  doubled, _ = jax.jit(branch.apply)(variables, points.repeat(2, 1), mask.repeat(2, 1))
  np.testing.assert_allclose(doubled, bev, atol=1e-6)


def test_grids_that_do_not_fit_are_refused_by_name():
  assert grid_size((-54, -54, -5, 54, 54, 3), (0.075, 0.075, 0.2), 8) == (1440, 1440, 40)
  assert sparse_shape((-54, -54, -5, 54, 54, 3), (0.1, 0.1, 0.2)) == (41, 1080, 1080)
  assert sparse_shape((-54, -54, -5, 54, 54, 3), (0.1, 0.1, 0.2), (1024, 1024)) == (41, 1024, 1024)
  with pytest.raises(ValueError, match=r'pc_range spans 4 m in y: 13.3333 cells of 0.3 m'):
    grid_size(PC_RANGE, (0.5, 0.3, 0.5))
  with pytest.raises(ValueError, match=r'pc_range spans 4.5 m in x: 9 cells of 0.5 m, not a multiple of 8'):
    lidar_branch((-2, -2, -1, 2.5, 2, 1), VOXEL)
  with pytest.raises(ValueError, match=r'in z'):
    grid_size((-2, -2, 1, 2, 2, -1), VOXEL)
  with pytest.raises(ValueError, match='six numbers'):
    grid_size((-2, -2, 2, 2), VOXEL)
  with pytest.raises(ValueError, match=r'\(1020, 1024\) cells is not divisible by 8'):
    sparse_shape((-54, -54, -5, 54, 54, 3), (0.1, 0.1, 0.2), (1020, 1024))


def test_points_of_another_shape_are_refused():
  with pytest.raises(ValueError, match=r'points must be \[batch, n, >= 5\].*not \(3, 4\)'):
    check_points(jnp.zeros((3, 4)), jnp.zeros(3, bool))
  with pytest.raises(ValueError, match=r'not \(2, 3, 4\)'):
    check_points(jnp.zeros((2, 3, 4)), jnp.zeros((2, 3), bool))
  with pytest.raises(ValueError, match=r'points_mask must be \(2, 3\)'):
    check_points(jnp.zeros((2, 3, 5)), jnp.zeros((2, 4), bool))
