"""Angles, tangent planes and rotations on the sphere; turning panoramas; the real starting points."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.vr_quality import database, rotate, sphere
from jaxpapers.vr_quality.arc import arc

SHARED = Path(os.environ.get('JAXPAPERS_SHARED') or Path(__file__).resolve().parents[3] / 'shared')
REAL = SHARED / 'data' / 'vr_quality' / database.NPZ
CENTRE = np.array([1.0, 0.0, 0.0])


def directions(seed, n):
  points = np.random.default_rng(seed).normal(size=(n, 3))
  return points / np.linalg.norm(points, axis=1, keepdims=True)


def smooth(d):
  """A function of direction [..., 3] -> [..., 1], quadratic, between about -1 and 1."""
  return (0.5 * d[..., :1] * d[..., 1:2] + 0.3 * d[..., 2:] + 0.2 * d[..., 1:2] * d[..., 2:] - 0.2 * d[..., :1]) * 1.2


def test_arc_is_the_arc_tangent_in_both_precisions_with_exact_slopes():
  angle = np.concatenate([np.linspace(0, np.pi, 4001), np.logspace(-8, -1, 50), np.pi - np.logspace(-6, -1, 50)])
  sine, cosine = np.maximum(np.sin(angle), 0), np.cos(angle)
  single = np.asarray(jax.jit(arc)(np.float32(sine), np.float32(cosine)))
  want = np.arctan2(np.float64(np.float32(sine)), np.float64(np.float32(cosine)))
  np.testing.assert_allclose(single, want, atol=3e-7)
  np.testing.assert_allclose(single[4001:4051], want[4001:4051], rtol=3e-7)
  slope = jax.jit(jax.vmap(jax.grad(arc, (0, 1))))(np.float32(sine[::7]), np.float32(cosine[::7]))
  np.testing.assert_allclose(slope, [cosine[::7], -sine[::7]], atol=1e-6)
  assert np.all(np.isfinite(jax.grad(arc, (0, 1))(0.0, 0.0)))
  with jax.enable_x64(True):
    np.testing.assert_allclose(arc(jnp.asarray(sine), jnp.asarray(cosine)), angle, atol=1e-15)


def test_tangent_maps_invert_each_other_and_slopes_are_finite_everywhere():
  special = [[0, 0, 1], [0, 0, -1], [-1, 0, 0], [0, 1, 0], [1, 0, 0]]
  base = np.concatenate([special, directions(0, 40)])
  point = np.concatenate([[[0, 0, 1], [0.6, 0, -0.8], [-1, 1e-9, 0], [0, 1, 0], [-1, 0, 0]], directions(1, 40)])

  @jax.jit
  def everything(base, point):
    tangent = sphere.log_map(base, point)
    slope = jax.vmap(jax.grad(sphere.angle_between, (0, 1)))(base, point)
    lonlat = sphere.to_lonlat(point)
    turned = jax.vmap(jax.grad(lambda d: sum(sphere.to_lonlat(d))))(base)
    inverse = sphere.exp_map(base, tangent)
    return tangent, inverse, sphere.angle_between(base, point), sphere.unit_vector(*lonlat), slope, turned

  with jax.enable_x64(True):
    tangent, inverse, angle, again, slope, turned = everything(base, point)
  np.testing.assert_allclose(np.linalg.norm(tangent, axis=1)[:4], angle[:4], atol=1e-7)
  np.testing.assert_allclose(np.linalg.norm(tangent, axis=1)[5:], angle[5:], atol=1e-12)
  np.testing.assert_allclose(angle[5:], np.arccos(np.sum(base * point, axis=1))[5:], atol=1e-9)
  # Opposite points (the fifth pair) have no direction between them; all others come back.
  keep = np.arange(len(base)) != 4
  np.testing.assert_allclose(inverse[keep], point[keep], atol=1e-8)
  np.testing.assert_allclose(again, point, atol=1e-12)
  assert all(np.all(np.isfinite(x)) for x in (*slope, turned, tangent))


def test_rotations_are_orthogonal_and_right_handed():
  angle = np.random.default_rng(2).uniform(-4, 4, 20)
  lat = np.random.default_rng(3).uniform(-1.5, 1.5, 20)

  @jax.jit
  def build(angle, lat, axis):
    about = sphere.rotation_x, sphere.rotation_y, sphere.rotation_z
    found = [f(angle) for f in about]
    found += [sphere.axis_rotation(jnp.broadcast_to(jnp.eye(3)[i], (len(angle), 3)), angle) for i in range(3)]
    return [
      *found,
      sphere.axis_rotation(axis, angle),
      rotate.centre_on(angle, lat),
      rotate.official_rotation(angle, lat),
    ]

  with jax.enable_x64(True):
    matrices = np.asarray(build(angle, lat, directions(4, 20)))
  eye = np.broadcast_to(np.eye(3), matrices.shape)
  np.testing.assert_allclose(matrices @ np.swapaxes(matrices, -1, -2), eye, atol=1e-12)
  np.testing.assert_allclose(np.linalg.det(matrices), 1, atol=1e-12)
  np.testing.assert_allclose(matrices[:3], matrices[3:6], atol=1e-12)
  np.testing.assert_allclose(matrices[2] @ CENTRE, np.stack([np.cos(angle), np.sin(angle), 0 * angle], -1), atol=1e-12)


def off_centre(matrices, lon, lat):
  """Radians from the image centre at which the matrices put the directions."""
  d = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
  moved = np.einsum('nij,nj->ni', np.asarray(matrices, np.float64), d)
  return np.arctan2(np.linalg.norm(np.cross(moved, CENTRE), axis=1), moved @ CENTRE)


def test_any_start_is_brought_to_the_centre_in_single_precision():
  lon = np.concatenate([np.random.default_rng(5).uniform(-np.pi, np.pi, 200), [np.pi, -np.pi, 0, 1]])
  lat = np.concatenate([np.random.default_rng(6).uniform(-1.5, 1.5, 200), [0, 0.3, np.pi / 2, -np.pi / 2]])
  matrices = jax.jit(rotate.centre_on)(np.float32(lon), np.float32(lat))
  assert off_centre(matrices, np.float64(np.float32(lon)), np.float64(np.float32(lat))).max() < 1e-6


@pytest.mark.skipif(not REAL.exists(), reason='the real tables are not here (set JAXPAPERS_SHARED)')
def test_the_real_starts_are_centred_and_the_published_preprocessing_misses_them():
  tables = database.read_npz(REAL)
  with jax.enable_x64(True):
    lon, lat = sphere.head_to_lonlat(jnp.asarray(tables.start_yaw), jnp.asarray(tables.start_pitch))
    exact = jax.jit(jax.vmap(rotate.centre_on))(lon, lat)
    published = jax.jit(jax.vmap(rotate.official_rotation))(-lon, -lat)
  lon, lat = np.asarray(lon), np.asarray(lat)
  assert lon.size == 1004
  errors = [np.rad2deg(off_centre(published[:, s], lon[:, s], lat[:, s])) for s in (0, 1)]
  assert max(off_centre(exact[:, s], lon[:, s], lat[:, s]).max() for s in (0, 1)) < 1e-6
  assert [round(float(e.mean()), 2) for e in errors] == [4.49, 2.95]
  assert round(float(max(e.max() for e in errors)), 2) == 43.95


def test_turning_a_panorama_there_and_back_returns_it_within_interpolation():
  image = np.float32(smooth(sphere.pixel_directions(48, 96)))
  noise = np.random.default_rng(7).normal(size=(48, 96, 1)).astype(np.float32)

  @jax.jit
  def turn(images, matrix):
    return jax.vmap(lambda x: rotate.rotate_erp(x, matrix))(images)

  for lon, lat in ((0.7, 0.4), (np.pi, -1.2), (2.0, np.pi / 2)):
    matrix = np.asarray(rotate.centre_on(lon, lat))
    moved = turn(np.stack([image, noise]), matrix)
    # Content at e moves to R e, so the value at d is that of R^T d.
    np.testing.assert_allclose(moved[0], smooth(sphere.pixel_directions(48, 96) @ matrix), atol=3e-3)
    np.testing.assert_allclose(turn(moved, matrix.T)[0], image, atol=6e-3)
  half = turn(np.stack([image, noise]), np.asarray(sphere.rotation_z(np.pi)))
  np.testing.assert_allclose(half[1], np.roll(noise, 48, axis=1), atol=2e-3)
  with pytest.raises(ValueError, match="'nearest'"):
    rotate.rotate_erp(image, np.eye(3), 'nearest')


def test_pixels_cover_the_sphere():
  np.testing.assert_allclose(sphere.solid_angles(6, 12).sum(), 4 * np.pi)
  lon, lat = sphere.pixel_lonlat(6, 12)
  x, y = sphere.lonlat_to_pixel(lon[None], lat[:, None], 6, 12)
  np.testing.assert_allclose(x[0], np.arange(12), atol=1e-12)
  np.testing.assert_allclose(y[:, 0], np.arange(6), atol=1e-12)
  wrapped = sphere.wrap_longitude(jnp.asarray([0.5, 3.5, -9.0, np.pi]))
  np.testing.assert_allclose(wrapped, [0.5, 3.5 - 2 * np.pi, 4 * np.pi - 9 - 2 * np.pi, -np.pi], atol=1e-6)
  assert jax.grad(sphere.wrap_longitude)(3.5) == 1
