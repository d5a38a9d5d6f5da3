"""Absent sensors and GridMask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.cmt import gridmask, modality
from jaxpapers.engine.errors import UserError


def batch(xp=np, cameras=6):
  return {
    'points': xp.ones((2, 7, 5), xp.float32),
    'points_mask': xp.ones((2, 7), bool),
    'images': xp.full((2, cameras, 4, 4, 3), 9.0, xp.float32),
    'has_lidar': xp.ones((2,), bool),
    'has_camera': xp.ones((2, cameras), bool),
  }


@pytest.mark.parametrize('xp', [np, jnp])
def test_masked_modal_zeroes_one_sensor_at_most(xp):
  draw = xp.asarray([0.1, 0.5, 0.6, 0.75, 0.8])
  points, images = modality.masked_modal(draw, xp.ones((5, 3, 5)), xp.ones((5, 2, 4, 4, 3)))
  np.testing.assert_array_equal(points.any(axis=(1, 2)), [True, True, False, False, True])
  np.testing.assert_array_equal(images.any(axis=(1, 2, 3, 4)), [True, True, True, True, False])
  alone, _ = modality.masked_modal(np.asarray(0.6), np.ones((3, 5), np.float32), np.ones((1, 2, 2, 3), np.float32))
  assert not alone.any() and alone.dtype == np.float32


@pytest.mark.parametrize('xp', [np, jnp])
def test_protocol_drops_or_zeroes(xp):
  whole = batch(xp)
  dropped = {name: row(whole) for name, row in modality.protocol('drop').items()}
  zeroed = {name: row(whole) for name, row in modality.protocol('zero').items()}
  wanted = {
    'both': (True, [1] * 6),
    'lidar_only': (True, [0] * 6),
    'camera_only': (False, [1] * 6),
    'front_camera_lost': (True, [0] + [1] * 5),
    'front_camera_left': (True, [1] + [0] * 5),
  }
  assert dropped.keys() == zeroed.keys() == wanted.keys()
  for name, (lidar, cameras) in wanted.items():
    np.testing.assert_array_equal(dropped[name]['has_lidar'], [lidar] * 2)
    np.testing.assert_array_equal(dropped[name]['has_camera'], [cameras] * 2)
    np.testing.assert_array_equal(dropped[name]['images'], whole['images'])
    np.testing.assert_array_equal(zeroed[name]['points'], whole['points'] * lidar)
    np.testing.assert_array_equal(zeroed[name]['images'][..., 0, 0, 0], np.asarray([cameras] * 2) * 9)
    assert zeroed[name]['has_camera'].all() and zeroed[name]['has_lidar'].all()
    assert zeroed[name]['images'].dtype == whole['images'].dtype


def test_nothing_left_is_an_error():
  with pytest.raises(UserError, match='Neither LiDAR nor any camera'):
    modality.keep_sensors(batch(), lidar=False, cameras=())
  with pytest.raises(UserError, match='drop or zero'):
    modality.keep_sensors(batch(), mode='hide')
  with pytest.raises(UserError, match='no camera 6'):
    modality.keep_sensors(batch(), cameras=(0, 6))


def test_grid_mask_cuts_one_grid_of_rectangles():
  images = jnp.ones((2, 3, 24, 40, 3))
  masked = np.asarray(
    jax.jit(jax.vmap(lambda key: gridmask.grid_mask(key, images)))(jax.random.split(jax.random.key(0), 64))
  )
  assert (masked == masked[:, :1, :1, :, :, :1]).all()  # one grid for all pictures
  cut = (masked == 0).any(axis=(1, 2, 3, 4, 5))
  assert 30 < cut.sum() < 58
  shares = []
  for image in masked[cut, 0, 0, :, :, 0]:
    rows, columns = image.all(1), image.all(0)
    np.testing.assert_array_equal(image > 0, rows[:, None] | columns[None])
    edges = np.flatnonzero(np.diff(rows.astype(int)) == 1)
    assert len(set(np.diff(edges))) <= 1  # one period
    shares.append((image == 0).mean())
  assert 0.1 < np.mean(shares) < 0.35
  with pytest.raises(ValueError, match='at least 3 rows'):
    gridmask.grid_mask(jax.random.key(0), jnp.ones((1, 2, 5, 3)))
