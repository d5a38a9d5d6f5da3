"""Corners, points inside and overlapping rectangles against geometry done another way."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.spatial import ConvexHull

from jaxpapers.cmt import boxes as box_ops


def random_boxes(rng, n, spread=3.0):
  return np.concatenate(
    [rng.uniform(-spread, spread, (n, 3)), rng.uniform(0.5, 4, (n, 3)), rng.uniform(-4, 4, (n, 1))], axis=1
  )


def test_corners_are_those_of_the_turned_box_and_agree_between_libraries():
  rng = np.random.default_rng(0)
  boxes = random_boxes(rng, 20)
  got = box_ops.corners(boxes)
  for box, corners in zip(boxes, got, strict=True):
    turn = np.asarray([[np.cos(box[6]), -np.sin(box[6])], [np.sin(box[6]), np.cos(box[6])]])
    local = (corners - box[:3]).copy()
    local[:, :2] = local[:, :2] @ turn  # back
    np.testing.assert_allclose(abs(local[:, :2]), np.broadcast_to(box[3:5] / 2, (8, 2)), atol=1e-12)
    np.testing.assert_allclose(sorted(local[:, 2]), [0] * 4 + [box[5]] * 4, atol=1e-12)
    assert (local[4:, 0] > 0).all() and (local[:4, 0] < 0).all()  # the front face is the second
  assert len(np.unique(got[0].round(9), axis=0)) == 8
  lengths = np.linalg.norm(got[:, [a for a, _ in box_ops.EDGES]] - got[:, [b for _, b in box_ops.EDGES]], axis=-1)
  np.testing.assert_allclose(lengths.sum(1), 4 * boxes[:, 3:6].sum(1))
  np.testing.assert_allclose(box_ops.corners(jnp.asarray(boxes, jnp.float32)), got, atol=1e-5)


def test_gravity_centre_is_half_a_height_up():
  boxes = random_boxes(np.random.default_rng(1), 5)
  np.testing.assert_allclose(box_ops.to_gravity(boxes)[:, 2], box_ops.corners(boxes)[..., 2].mean(1))
  np.testing.assert_allclose(box_ops.to_bottom(box_ops.to_gravity(boxes)), boxes, atol=1e-15)


def test_points_inside_are_those_of_the_convex_hull():
  rng = np.random.default_rng(2)
  boxes, points = random_boxes(rng, 8), rng.uniform(-5, 8, (400, 5))
  wanted = []
  for corners in box_ops.corners(boxes):
    planes = ConvexHull(corners).equations
    wanted.append((points[:, :3] @ planes[:, :3].T + planes[:, 3] <= 1e-12).all(1))
  got = box_ops.points_in_boxes(points, boxes)
  np.testing.assert_array_equal(got, wanted)
  assert got.any() and not got.all()


def test_overlap_is_a_common_interior():
  """A linear program looks for the largest circle inside both rectangles."""
  rng = np.random.default_rng(3)
  first, second = random_boxes(rng, 9), random_boxes(rng, 11)

  def planes(box):
    cos, sin = np.cos(box[6]), np.sin(box[6])
    normals = np.asarray([[cos, sin], [-cos, -sin], [-sin, cos], [sin, -cos]])
    return normals, normals @ box[:2] + np.repeat(box[3:5] / 2, 2)

  wanted = np.zeros((9, 11), bool)
  for i, a in enumerate(first):
    for j, b in enumerate(second):
      (na, ca), (nb, cb) = planes(a), planes(b)
      solved = linprog(
        [0, 0, -1],
        A_ub=np.concatenate([np.concatenate([na, nb]), np.ones((8, 1))], axis=1),
        b_ub=np.concatenate([ca, cb]),
        bounds=[(None, None)] * 3,
      )
      wanted[i, j] = -solved.fun > 0
  got = box_ops.overlap_from_above(first, second)
  np.testing.assert_array_equal(got, wanted)
  np.testing.assert_array_equal(box_ops.overlap_from_above(second, first), wanted.T)
  assert got.any() and not got.all()
  assert box_ops.overlap_from_above(first[:0], second).shape == (0, 11)


def test_yaw_differences_wrap():
  np.testing.assert_allclose(
    box_ops.yaw_difference(np.asarray([3.0, 0.1]), np.asarray([-3.0, 6.2])), [0.2832, 0.1832], atol=1e-4
  )
  np.testing.assert_allclose(box_ops.yaw_difference(np.asarray(0.2), np.asarray(0.2 + np.pi), np.pi), 0, atol=1e-12)


def test_too_few_numbers_are_refused():
  with pytest.raises(ValueError, match=r'not \(3, 6\)'):
    box_ops.corners(np.zeros((3, 6)))
