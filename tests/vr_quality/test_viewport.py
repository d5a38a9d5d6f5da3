"""Viewports: no seam, slopes in every angle across the seam and over the poles, scanpaths, roll, aspect."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.vr_quality import sphere
from jaxpapers.vr_quality.viewport import scanpath_viewports, viewport, viewport_rays
from tests.vr_quality.test_sphere import smooth

FOV = np.pi / 2
ANGLES = np.array(
  [
    (np.pi, 0.1, 0.3),
    (-np.pi, -0.4, 0.0),
    (3.0, 0.9, -0.5),
    (0.3, np.pi / 2, 0.0),
    (-2.0, -np.pi / 2, 0.2),
    (1.0, 1.2, 0.0),
    (0.0, 0.0, 0.0),
  ]
)


def test_a_smooth_function_has_no_seam_in_any_direction():
  more = np.random.default_rng(0).uniform((-np.pi, -1.57, -3), (np.pi, 1.57, 3), (40, 3))
  settings = np.float32(np.concatenate([ANGLES, more]))
  image = jnp.asarray(127.5 + 127.5 * smooth(sphere.pixel_directions(256, 512)), jnp.float32)

  @jax.jit
  def see(settings):
    rays = jax.vmap(lambda a: viewport_rays(a[0], a[1], a[2], FOV, (20, 20)))(settings)
    return rays, jax.vmap(lambda a: viewport(image, *a, fov=FOV, size=(20, 20)))(settings)

  rays, seen = (np.asarray(x, np.float64) for x in see(settings))
  assert image.min() >= 0 and image.max() <= 255
  exact = 127.5 + 127.5 * smooth(rays / np.linalg.norm(rays, axis=-1, keepdims=True))
  assert np.abs(seen - exact).max() < 0.1
  centre = rays[:, 9:11, 9:11].mean((1, 2))
  want = np.asarray(sphere.unit_vector(settings[:, 0], settings[:, 1]))
  np.testing.assert_allclose(centre, want, atol=1e-5)


@pytest.mark.parametrize('method', ['bilinear', 'catmull_rom'])
def test_slopes_in_all_angles_are_those_of_central_differences(method):
  image = smooth(sphere.pixel_directions(24, 48))
  weights = np.random.default_rng(1).normal(size=(6, 6, 1))
  settings = np.concatenate([ANGLES, np.full((len(ANGLES), 1), 1.4)], axis=1)
  steps = 1e-5 * np.eye(4)

  def value(setting, image):
    lon, lat, roll, fov = setting
    return jnp.sum(weights * viewport(image, lon, lat, roll, fov, (6, 6), method))

  with jax.enable_x64(True):
    slopes = jax.jit(jax.vmap(jax.value_and_grad(value, (0, 1)), (0, None)))
    near = settings[:, None, None] + np.stack([steps, -steps])
    around = jax.jit(jax.vmap(value, (0, None)))(near.reshape(-1, 4), image)
    found, (by_angle, by_image) = jax.tree.map(np.asarray, slopes(settings, image))
  around = np.asarray(around).reshape(len(settings), 2, 4)
  difference = (around[:, 0] - around[:, 1]) / 2e-5
  np.testing.assert_allclose(by_angle, difference, atol=1e-3 * np.abs(difference).max())
  # Linear in the image: its gradient is the adjoint.
  np.testing.assert_allclose(np.sum(by_image * image, axis=(1, 2, 3)), found, atol=1e-9)


def test_scanpaths_frames_roll_and_aspect():
  rng = np.random.default_rng(2)
  frames = rng.integers(0, 256, (3, 16, 32, 3), np.uint8)
  lon, lat = np.float32(rng.uniform(-3, 3, (2, 3))), np.float32(rng.uniform(-1, 1, (2, 3)))

  @jax.jit
  def everything(frames, lon, lat):
    one = functools.partial(viewport, fov=1.2, size=(8, 8))
    path = scanpath_viewports(frames, lon, lat, 1.2, (8, 8))
    single = one(frames[2].astype(jnp.float32), lon[1, 2], lat[1, 2])
    rolled = one(frames[2], lon[1, 2], lat[1, 2], roll=np.pi / 2)
    wide = viewport_rays(0.0, 0.0, 0.0, 1.2, (9, 17))
    return path, single, rolled, wide

  path, single, rolled, wide = everything(frames, lon, lat)
  assert path.shape == (2, 3, 8, 8, 3) and path.dtype == np.float32
  np.testing.assert_allclose(path[1, 2], single, atol=1e-3)
  np.testing.assert_allclose(rolled, np.rot90(single), atol=2e-2)
  # The outer pixel centres lie on the edge of the field of view; the vertical one follows from the aspect.
  np.testing.assert_allclose(wide[4, 16] / wide[4, 16, 0], [1, np.tan(0.6), 0], atol=1e-6)
  np.testing.assert_allclose(wide[0, 8] / wide[0, 8, 0], [1, 0, np.tan(0.6) * 9 / 17], atol=1e-6)
  with pytest.raises(ValueError, match="'lanczos'"):
    viewport(frames[0], 0.0, 0.0, method='lanczos')
