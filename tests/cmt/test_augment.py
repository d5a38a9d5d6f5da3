"""Augmentations move points, boxes and matrices together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from jaxpapers.cmt import augment, boxes, geometry
from jaxpapers.engine.errors import UserError

CAMERA = np.asarray([[0.0, -1, 0, 0.2], [0, 0, -1, 1.5], [1, 0, 0, -0.3], [0, 0, 0, 1]])
INTRINSICS = np.asarray([[1266.0, 0, 816], [0, 1266, 491], [0, 0, 1]])


def full(matrix):
  return np.block([[matrix, np.zeros((3, 1))], [np.zeros((1, 3)), 1.0]])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([augment.FUSION_BEV, augment.CAMERA_BEV]))
def test_moved_points_and_boxes_stay_on_their_pixels(seed, limits):
  rng = np.random.default_rng(seed)
  move = augment.draw_bev(rng, limits)
  scene = rng.uniform([4, -15, -1, 1, 1, 1, -4, -9, -9], [50, 15, 1, 5, 3, 3, 4, 9, 9], (12, 9))
  moved = augment.bev_boxes(move, scene)
  cameras = augment.bev_cameras(move, CAMERA[None])
  corners = boxes.corners(moved)
  before, _ = geometry.project(full(INTRINSICS) @ CAMERA, boxes.corners(scene))
  after, depth = geometry.project(full(INTRINSICS) @ cameras[0], corners)
  # A flip renames corners: an inside-out box has its left where its right was.
  order = [3, 2, 1, 0, 7, 6, 5, 4] if move.flip_y != move.flip_x else range(8)
  np.testing.assert_allclose(after[:, order], before, atol=1e-6)
  assert (depth > 0).any()
  points = augment.bev_points(move, boxes.corners(scene).reshape(-1, 3))
  np.testing.assert_allclose(points.reshape(-1, 8, 3)[:, order], corners, atol=1e-9)
  # A second later an object is where its velocity took it.
  later = scene.copy()
  later[:, :2] += scene[:, 7:]
  np.testing.assert_allclose(augment.bev_boxes(move, later)[:, :2], moved[:, :2] + moved[:, 7:], atol=1e-9)


def test_bev_draws_keep_their_limits():
  draws = [augment.draw_bev(np.random.default_rng(seed)) for seed in range(200)]
  assert max(abs(draw.angle) for draw in draws) <= 0.785
  assert all(0.9 <= draw.scale <= 1.1 for draw in draws)
  assert 0.4 < np.std([draw.shift for draw in draws]) < 0.6
  assert 70 < sum(draw.flip_x for draw in draws) < 130
  still = augment.draw_bev(np.random.default_rng(0), augment.CAMERA_BEV)
  assert not still.shift.any() and not still.flip_x and not still.flip_y


@pytest.mark.parametrize(('resize', 'flip'), [(1.13, False), (0.53, True), (0.75, False)])
def test_pictures_move_with_their_matrix(resize, flip):
  """Against interpolation at the places that the matrix maps to each pixel's centre."""
  rng = np.random.default_rng(0)
  image, size = rng.uniform(0, 255, (40, 60, 3)).astype(np.float32), (32, 48)
  draw = augment.ImageDraw(resize, 3, int(40 * resize) - 32, flip)
  got = augment.transform_image(image, draw, size)
  rows, columns = np.mgrid[:32, :48]
  if flip:
    columns = 47 - columns
  rows, columns = rows + draw.top, columns + draw.left
  height, width = int(40 * resize), int(60 * resize)
  outside = (rows < 0) | (rows >= height) | (columns < 0) | (columns >= width)
  places = [(rows + 0.5) * 40 / height - 0.5, (columns + 0.5) * 60 / width - 0.5]
  wanted = np.stack([ndimage.map_coordinates(image[..., k], places, order=1, mode='nearest') for k in range(3)], -1)
  np.testing.assert_allclose(got, np.where(outside[..., None], 0, wanted), atol=1e-3)
  assert outside.any() == (draw.top < 0)
  corner = augment.image_matrix(draw, size) @ np.asarray([draw.left / resize, draw.top / resize, 1])
  np.testing.assert_allclose(corner, [48 if flip else 0, 0, 1], atol=1e-9)


def test_part_beside_the_picture_is_empty():
  image = np.ones((20, 30, 3), np.uint8)
  assert not augment.transform_image(image, augment.ImageDraw(1.0, 40, 0, False), (8, 8)).any()
  assert augment.transform_image(image, augment.ImageDraw(1.0, 26, 0, False), (8, 8))[:, :4].all()


def test_image_draws_of_the_recipes():
  assert augment.central_image((320, 800)) == augment.ImageDraw(0.5, 0, 130, False)
  assert augment.central_image((640, 1600)) == augment.ImageDraw(1.0, 0, 260, False)
  limits = augment.ImageLimits((640, 1600))
  for seed in range(50):
    draw = augment.draw_image(np.random.default_rng(seed), limits)
    assert 0.94 <= draw.resize <= 1.25 and draw.top == int(900 * draw.resize) - 640
    assert 0 <= draw.left <= max(0, int(1600 * draw.resize) - 1600)


def test_sizes_that_strides_do_not_divide_are_refused():
  augment.check_size((320, 800))
  with pytest.raises(UserError, match='320x801.*multiples of 32'):
    augment.check_size((320, 801))
