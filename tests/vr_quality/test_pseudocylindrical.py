"""Tiles of a panorama: exact widths, adjoints, continuation as on the sphere, constants, half turns, buckets, norm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.vr_quality import pseudocylindrical as tiles
from jaxpapers.vr_quality import sphere, tables
from jaxpapers.vr_quality.pseudo_layers import MaskedBatchNorm, pseudo_conv, pseudo_max_pool
from tests.vr_quality.test_sphere import smooth


def test_widths_follow_the_rule_for_every_number_of_tiles_and_power_of_two():
  assert tables.tile_ratios(4) == (25, 60, 60, 25)
  assert tables.tile_ratios(8) == (13, 36, 54, 63, 63, 54, 36, 13)
  assert tables.tile_ratios(16) == (7, 19, 31, 41, 50, 57, 62, 64, 64, 62, 57, 50, 41, 31, 19, 7)
  for npart in range(4, 33):
    cosine = np.cos((0.5 - (np.arange(npart) + 0.5) / npart) * np.pi)
    ratio = np.ceil(64 * cosine - 1e-9)
    for width in 2 ** np.arange(2, 12):
      want = np.floor(ratio * width / 64 + 0.5)
      if want.min() < 1:
        with pytest.raises(ValueError, match=f'{width} columns .* {npart} tiles'):
          tables.tile_widths(npart, int(width))
      else:
        np.testing.assert_array_equal(tables.tile_widths(npart, int(width)), want)
  with pytest.raises(ValueError, match='at least 2 tiles, not 1'):
    tables.tile_widths(1, 64)


def test_sizes_that_do_not_fit_are_named():
  with pytest.raises(ValueError, match=r'H = 30 .* G = 4 tiles'):
    tiles.sphere_slice(jnp.zeros((1, 30, 64, 1)), 4)
  with pytest.raises(ValueError, match='odd square kernels'):
    pseudo_conv(jnp.zeros((1, 4, 4, 32, 1)), jnp.zeros((2, 2, 1, 1)))
  with pytest.raises(ValueError, match='Stride 2 does not divide tiles of 3 x 32'):
    pseudo_conv(jnp.zeros((1, 4, 3, 32, 1)), jnp.zeros((3, 3, 1, 1)), 2)


def linear_maps(width):
  """(map, input shape) of slice, unslice and pads, one of them wider than a tile is high."""
  inside = (2, 4, 2, width, 1)
  yield lambda x: tiles.sphere_slice(x, 4), (2, 8, width, 1)
  yield tiles.sphere_unslice, inside
  for padding in (1, 3):
    yield lambda x, p=padding: tiles.pad(x, p), inside


@pytest.mark.parametrize('width', [32, 136])  # dense matrices, gathers
def test_gradients_are_adjoints(width):
  rng = np.random.default_rng(0)
  with jax.enable_x64(True):
    maps = list(linear_maps(width))
    inputs = [jnp.asarray(rng.normal(size=shape)) for _, shape in maps]
    shapes = [jax.eval_shape(f, x).shape for (f, _), x in zip(maps, inputs, strict=True)]
    others = [jnp.asarray(rng.normal(size=shape)) for shape in shapes]

    @jax.jit
    def both(inputs, others):
      found = []
      for (f, _), x, y in zip(maps, inputs, others, strict=True):
        out, pull = jax.vjp(f, x)
        found.append((out, pull(y)[0], f(2 * x) - 2 * out))
      return found

    for x, y, (out, back, rest) in zip(inputs, others, both(inputs, others), strict=True):
      scale = np.linalg.norm(out) * np.linalg.norm(y)
      assert abs(np.vdot(out, y) - np.vdot(x, back)) < 1e-6 * scale
      assert np.abs(rest).max() < 1e-9 and np.abs(back).max() > 0


def test_matrices_and_gathers_are_the_same_maps(monkeypatch):
  rng = np.random.default_rng(1)
  inputs = [np.float32(rng.normal(size=shape)) for _, shape in linear_maps(32)]
  results = []
  for limit in (128, 0):
    monkeypatch.setattr(tiles, 'MATRIX_WIDTH', limit)
    program = jax.jit(lambda inputs: [f(x) for (f, _), x in zip(linear_maps(32), inputs, strict=True)])
    results.append(program(inputs))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), *results)


def continued(npart, height, width, padding):
  """Directions [npart, height + 2 padding, width + 2 padding, 3] of padded tiles; over a pole the latitude goes on."""
  out = np.zeros((npart, height + 2 * padding, width + 2 * padding, 3))
  for g, w in enumerate(tables.tile_widths(npart, width)):
    lon = (np.arange(-padding, w + padding) + 0.5) / w * 2 * np.pi - np.pi
    row = g * height + np.arange(-padding, height + padding)
    lat = (np.pi / 2 - (row + 0.5) / (npart * height) * np.pi)[:, None]
    parts = np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat) * np.ones_like(lon)
    out[g, :, : w + 2 * padding] = np.stack(parts, axis=-1)
  return out


@pytest.mark.parametrize('padding', [1, 3])
def test_padding_continues_a_function_of_direction(padding):
  shape = (4, 2, 64)
  inside, outside = tables.tile_directions(*shape), continued(*shape, padding)
  got = np.asarray(jax.jit(tiles.pad, static_argnums=1)(np.float32(smooth(inside))[None], padding))[0]
  want = smooth(outside)
  used = np.arange(64 + 2 * padding) < np.asarray(tables.tile_widths(4, 64))[:, None] + 2 * padding
  np.testing.assert_allclose(got[..., 0], np.where(used[:, None], want[..., 0], 0), atol=0.02)


def test_slicing_there_and_back_and_constants():
  image = np.float32(smooth(sphere.pixel_directions(16, 64)))
  both = np.stack([image, np.full_like(image, 0.7)])
  kernel = np.float32(np.random.default_rng(2).normal(size=(3, 3, 1, 2)))

  @jax.jit
  def program(both):
    sliced = tiles.sphere_slice(both, 4)
    y = pseudo_conv(sliced, kernel)
    return sliced, tiles.sphere_unslice(sliced), y, pseudo_max_pool(jnp.maximum(y, 0))

  sliced, back, y, pooled = map(np.asarray, program(both))
  np.testing.assert_allclose(back, both, atol=5e-3)
  np.testing.assert_allclose(sliced[0], np.float32(smooth(tables.tile_directions(4, 4, 64))), atol=5e-3)
  mask = tables.valid_mask(4, 64)[:, None, :, None]
  np.testing.assert_allclose(sliced[1], 0.7 * mask * np.ones_like(sliced[1]), atol=1e-6)
  np.testing.assert_allclose(y[1], mask * 0.7 * kernel.sum((0, 1, 2)) * np.ones_like(y[1]), atol=1e-5)
  small = tables.valid_mask(4, 32)[:, None, :, None]
  want = np.maximum(0.7 * kernel.sum((0, 1, 2)), 0)
  np.testing.assert_allclose(pooled[1], small * want * np.ones_like(pooled[1]), atol=1e-5)


def test_half_a_turn_moves_features_by_half_a_width_and_buckets_change_nothing():
  rng = np.random.default_rng(3)
  image = np.float32(rng.normal(size=(1, 16, 128, 2)))
  kernel = np.float32(rng.normal(size=(3, 3, 2, 3)))

  @jax.jit
  def features(image):
    sliced = tiles.sphere_slice(image, 4)
    one, two = pseudo_conv(sliced, kernel), pseudo_conv(sliced, kernel, 2)
    return (one, two), (pseudo_conv(sliced, kernel, 1, True), pseudo_conv(sliced, kernel, 2, True))

  plain, bucketed = features(np.concatenate([image, np.roll(image, 64, axis=2)]))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), plain, bucketed)
  for x, width in zip(plain, (128, 64), strict=True):
    moved = 0
    for g, w in enumerate(tables.tile_widths(4, width)):
      if w % 2 == 0:
        np.testing.assert_allclose(np.roll(x[0, g, :, :w], w // 2, axis=1), x[1, g, :, :w], atol=1e-4)
        moved += 1
    assert moved >= 2


def test_masked_norm_counts_valid_positions_only():
  x = np.float32(np.random.default_rng(4).normal(2, 3, (2, 4, 2, 32, 3)))
  layer = MaskedBatchNorm()
  variables = layer.init(jax.random.key(0), x, False)
  y, updates = jax.jit(lambda v, x: layer.apply(v, x, False, mutable=['batch_stats']))(variables, x)
  mask = np.broadcast_to(tables.valid_mask(4, 32)[None, :, None], x.shape[:-1])
  valid = x[mask]
  want = (valid - valid.mean(0)) / np.sqrt(valid.var(0) + 1e-5)
  np.testing.assert_allclose(np.asarray(y)[mask], want, atol=1e-5)
  assert np.all(np.asarray(y)[~mask] == 0)
  np.testing.assert_allclose(updates['batch_stats']['mean'], 0.1 * valid.mean(0), rtol=1e-5)
  np.testing.assert_allclose(updates['batch_stats']['var'], 0.9 + 0.1 * valid.var(0), rtol=1e-5)
