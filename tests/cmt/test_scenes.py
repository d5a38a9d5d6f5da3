"""Synthetic scenes: rays against marching through boxes, exact matrices, what counts as ground truth, motion, paint."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.cmt import scenes
from jaxpapers.cmt.boxes import points_in_boxes

SETTING = scenes.Surround(height=16, width=24, beams=6, azimuths=48)
COUNT = 24


@pytest.fixture(scope='module')
def batch():
  make = jax.jit(lambda indices: scenes.scenes(SETTING, indices, 3))
  return jax.tree.map(np.asarray, make(jnp.arange(COUNT)))


@pytest.fixture(scope='module')
def hits():
  """Some rays into three boxes, with what `cast` says."""
  rng = np.random.default_rng(0)
  boxes = np.asarray(
    [[4, 1, 0, 2, 1, 1.5, 2.8, 0, 0], [-3, 3, 0, 3, 1.4, 1, 2.0, 0, 0], [5, -4, 0, 1, 1, 2, -1.0, 0, 0]], np.float32
  )
  present = np.array([True, True, False])
  target = boxes[rng.integers(0, 3, 400), :3] + rng.uniform(-1.5, 1.5, (400, 3)) + [0, 0, 0.6]
  origin = np.broadcast_to(np.float32([0.1, -0.2, 1.2]), target.shape)
  direction = target - origin
  direction /= np.linalg.norm(direction, axis=1, keepdims=True)
  found = jax.jit(scenes.cast)(origin, direction.astype(np.float32), boxes, present)
  return boxes, origin, direction, jax.tree.map(np.asarray, found)


def test_rays_end_where_marching_first_enters_a_box_or_the_ground(hits):
  boxes, origin, direction, found = hits
  step = 0.005
  distances = np.arange(0, 14, step)
  seen = set()
  for k in range(0, 400, 4):
    path = origin[k] + distances[:, None] * direction[k]
    inside = points_in_boxes(path, boxes[:2])
    ground = path[:, 2] <= 0
    first = np.concatenate([inside, ground[None]]).argmax(1)
    entered = np.concatenate([inside, ground[None]]).any(1)
    first = np.where(entered, first, len(distances))
    nearest = int(first.argmin())
    if not entered.any():
      assert found.box[k] == -1 and (found.distance[k] > 13.9), k
      continue
    wanted = distances[first[nearest]]
    if abs(found.distance[k] - wanted) > 2 * step:
      # A corner that the march stepped over is nearer than what it then met.
      assert found.distance[k] < wanted and found.box[k] >= 0
      continue
    assert found.box[k] == (nearest if nearest < 2 else -1)
    seen.add(int(found.box[k]))
  assert seen == {-1, 0, 1}


def test_faces_and_heights_are_those_of_the_hit_point(hits):
  boxes, origin, direction, found = hits
  rows = np.flatnonzero(found.box >= 0)
  box = boxes[found.box[rows]]
  local = origin[rows] + found.distance[rows, None] * direction[rows] - box[:, :3]
  cos, sin = np.cos(box[:, 6]), np.sin(box[:, 6])
  x, y = local[:, 0] * cos + local[:, 1] * sin, local[:, 1] * cos - local[:, 0] * sin
  faces = np.stack(
    [x - box[:, 3] / 2, x + box[:, 3] / 2, y - box[:, 4] / 2, y + box[:, 4] / 2, local[:, 2] - box[:, 5]]
  )
  assert np.abs(faces[found.face[rows], np.arange(len(rows))]).max() < 1e-4
  np.testing.assert_allclose(found.height[rows], local[:, 2] / box[:, 5], atol=1e-4)
  assert len(set(found.face[rows])) >= 4


def test_matrices_are_inverses_and_pixels_lie_on_their_rays(batch):
  lidar2img, img2lidar = scenes.rig(SETTING)
  product = lidar2img.astype(np.float64) @ img2lidar
  np.testing.assert_allclose(product, np.broadcast_to(np.eye(4), product.shape), atol=2e-5)
  origin, direction = scenes._pixel_rays(SETTING)
  place = (origin + 5 * direction).reshape(6, -1, 3)
  pixel = np.einsum('vij,vpj->vpi', lidar2img[:, :3, :3], place) + lidar2img[:, None, :3, 3]
  down, right = np.mgrid[: SETTING.height, : SETTING.width] + 0.5
  wanted = np.stack([right, down], -1).reshape(-1, 2)
  assert (pixel[..., 2] > 0).all()
  np.testing.assert_allclose(pixel[..., :2] / pixel[..., 2:], np.broadcast_to(wanted, (6, *wanted.shape)), atol=1e-3)
  np.testing.assert_array_equal(batch['lidar2img'][5], lidar2img)


def test_ground_truth_stands_apart_is_packed_and_has_returns(batch):
  boxes, mask, points = batch['boxes'], batch['boxes_mask'], batch['points']
  assert (np.diff(mask.astype(int), axis=1) <= 0).all()
  assert (boxes[~mask] == 0).all() and (batch['labels'][~mask] == 0).all()
  assert 0 < mask.sum() < mask.size
  assert set(batch['labels'][mask]) == set(range(len(scenes.CLASSES)))
  for scene in range(COUNT):
    own = boxes[scene][mask[scene]].copy()
    reach = np.hypot(own[:, 3], own[:, 4]) / 2
    gap = np.linalg.norm(own[:, None, :2] - own[None, :, :2], axis=-1) - reach[:, None] - reach
    assert (gap[~np.eye(len(own), dtype=bool)] > 0).all()
    own[:, 2] -= 0.1
    own[:, 3:6] += 0.2  # range noise
    now = points[scene][batch['points_mask'][scene] & (points[scene][:, 4] == 0)]
    assert points_in_boxes(now, own).any(1).all(), scene


def test_a_box_that_is_never_hit_is_no_ground_truth(batch):
  def placed(scene):
    return scenes.place(SETTING, jax.random.split(jax.random.fold_in(jax.random.key(3), scene), 3)[0])[2].sum()

  assert jax.jit(jax.vmap(placed))(jnp.arange(COUNT)).sum() > batch['boxes_mask'].sum()


def test_points_of_the_older_sweep_lie_on_boxes_moved_back(batch):
  moved = 0
  for scene in range(COUNT):
    own = batch['boxes'][scene][batch['boxes_mask'][scene]].copy()
    own[:, 2] += 0.15
    own[:, 5] -= 0.15  # no ground points
    own[:, 3:5] += 0.15
    old = batch['points'][scene][batch['points'][scene][:, 4] > 0]
    np.testing.assert_allclose(old[:, 4], 0.5)
    back = own.copy()
    back[:, :2] -= 0.5 * own[:, 7:9]
    fast = np.hypot(own[:, 7], own[:, 8]) > 1.5
    here, there = points_in_boxes(old, own).sum(1), points_in_boxes(old, back).sum(1)
    moved += int((there - here)[fast].sum())
    speed = np.hypot(own[:, 7], own[:, 8])
    ahead = np.stack([np.cos(own[:, 6]), np.sin(own[:, 6])], -1) * speed[:, None]
    np.testing.assert_allclose(ahead, own[:, 7:9], atol=1e-5)
  assert moved > 20


def test_points_have_the_rows_of_the_room_and_misses_are_masked(batch):
  points, mask = batch['points'], batch['points_mask']
  assert points.shape == (COUNT, SETTING.points, 5)
  assert (points[~mask] == 0).all()
  low, high = np.asarray(SETTING.pc_range[:3]), np.asarray(SETTING.pc_range[3:])
  assert ((points[mask][:, :3] >= low) & (points[mask][:, :3] < high)).all()
  assert points[mask][:, 3].max() <= 255 and points[mask][:, 3].min() >= 0
  assert batch['images'].min() >= 0 and batch['images'].max() <= 255


def test_colour_alone_tells_the_posts_apart_and_paint_alone_a_heading():
  one, other = scenes.LOOK_ALIKE
  assert scenes.SIZES[one] == scenes.SIZES[other]
  assert scenes.COLOURS[one] != scenes.COLOURS[other]
  box = jnp.asarray([[0.0, 5.0, 0.0, 0.7, 0.7, 1.3, np.pi / 2, 0.0, 0.0]])
  present = jnp.ones(1, bool)
  key = jax.random.key(0)

  @jax.jit
  def see(box, label):
    return scenes._images(SETTING, box, label[None], present, key)[0]

  cloud = jax.jit(lambda box: scenes._cloud(SETTING, box, present, key)[0])

  away = see(box, jnp.asarray(one))
  towards = see(box.at[0, 6].add(np.pi), jnp.asarray(one))
  yellow = jnp.asarray(scenes.PAINT) * 0.95

  def painted(image):
    return int((jnp.abs(image - yellow).max(-1) < 20).sum())

  assert painted(away) == 0 and painted(towards) > 3
  assert jnp.abs(away - see(box, jnp.asarray(other))).max() > 50
  front, rear = (np.asarray(cloud(b)) for b in (box.at[0, 6].add(np.pi), box))
  np.testing.assert_allclose(front[:, :3], rear[:, :3], atol=1e-3)
  brighter = front[:, 3] > 2 * rear[:, 3] + 1
  assert brighter.sum() >= 2 and (front[brighter, 2] > 0.6).all()
