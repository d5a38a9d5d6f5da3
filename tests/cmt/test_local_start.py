"""The start: whose queries look around their reference points; hidden tokens; the small network's errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.cmt import scenes, small, steps
from jaxpapers.cmt.local_start import fit, local_start

SETTING = scenes.Surround()


@pytest.fixture(scope='module')
def started():
  """(detector, batch, drawn variables, variables that start local)."""
  model = small.small_cmt(SETTING.pc_range, 4, queries=24)
  detector = steps.Detector(model)
  rng = np.random.default_rng(0)
  lidar2img, img2lidar = (jnp.asarray(np.stack([m, m])) for m in scenes.rig(SETTING))
  batch = {
    'points': jnp.asarray(rng.uniform(-8, 8, (2, 50, 5)), jnp.float32),
    'points_mask': jnp.ones((2, 50), bool),
    'images': jnp.asarray(rng.uniform(0, 255, (2, 6, SETTING.height, SETTING.width, 3)), jnp.float32),
    'lidar2img': lidar2img,
    'img2lidar': img2lidar,
    'has_lidar': jnp.ones(2, bool),
    'has_camera': jnp.ones((2, 6), bool),
  }
  shapes = jax.eval_shape(lambda: detector.init(jax.random.key(0), batch))
  drawn = jax.tree.map(lambda x: jnp.asarray(0.1 * rng.normal(size=x.shape), x.dtype), shapes)
  drawn['batch_stats'] = jax.tree.map(jnp.ones_like, drawn['batch_stats'])
  drawn['params']['head']['reference_points'] = jnp.asarray(rng.random((24, 3)), jnp.float32)
  head = local_start(
    drawn['params']['head'],
    np.random.default_rng(0),
    img2lidar=scenes.rig(SETTING)[1],
    image_size=(SETTING.height, SETTING.width),
    pc_range=SETTING.pc_range,
    depths=12,
    heads=4,
    frequencies=small.FREQUENCIES,
  )
  return detector, batch, drawn, {**drawn, 'params': {**drawn['params'], 'head': head}}


@pytest.fixture(scope='module')
def attend(started):
  """(variables, batch) -> cross-attention [layers, batch, queries, tokens]."""

  @jax.jit
  def look(variables, batch):
    _, kept = started[0].apply(variables, batch, mutable=['intermediates'])
    return kept['intermediates']['head']['decoder']['layers']['cross_attention_weights'][0]

  return look


def test_queries_start_looking_around_their_reference_points(started, attend):
  _, batch, drawn, local = started
  points = np.asarray(drawn['params']['head']['reference_points'])[:, :2]
  cells = (np.stack(np.meshgrid(np.arange(16), np.arange(16)), -1).reshape(-1, 2) + 0.5) / 16
  distance = 16 * np.linalg.norm(points[:, None] - cells, axis=-1)

  def mean_distance(variables):
    weights = np.asarray(attend(variables, batch))[0, ..., :256].mean(0)
    return (weights * distance).sum() / weights.sum()

  assert mean_distance(drawn) > 7
  assert mean_distance(local) < 2


def test_half_of_the_attention_starts_on_each_sensor(started, attend):
  _, batch, _, local = started
  on_lidar = np.asarray(attend(local, batch))[0, ..., :256].sum(-1)
  assert 0.45 < on_lidar.mean() < 0.6


def test_attention_sums_to_one_and_leaves_hidden_tokens_out(started, attend):
  _, batch, _, local = started
  hidden = {**batch, 'has_lidar': jnp.array([True, False]), 'has_camera': batch['has_camera'].at[0, 2].set(False)}
  weights = np.asarray(attend(local, hidden))
  assert weights.shape == (2, 2, 24, 256 + 6 * 18)
  np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
  assert (weights[:, 1, ..., :256] == 0).all()
  camera = slice(256 + 2 * 18, 256 + 3 * 18)
  assert (weights[:, 0, ..., camera] == 0).all() and weights[:, 1, ..., camera].max() > 0


def test_fitted_layers_have_the_kernel_s_inner_products():
  rng = np.random.default_rng(1)
  places = np.stack(np.meshgrid(np.arange(10.0), np.arange(10.0)), -1).reshape(-1, 2)
  inputs = np.concatenate([np.sin(places * f) for f in (0.2, 0.5, 1)] + [np.cos(places * f) for f in (0.2, 0.5, 1)], 1)
  layers = fit(rng, inputs, places, 2.0, 256, 64, 2, 10.0)
  out = np.maximum(inputs @ layers.kernel_0 + layers.bias_0, 0) @ layers.kernel_1 + layers.bias_1
  np.testing.assert_array_equal(out[:, :32], out[:, 32:])
  found = out[:, :32] @ out[:, :32].T / np.sqrt(32)
  wanted = 10 * np.exp(-((places[:, None] - places) ** 2).sum(-1) / 8)
  assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.97
  assert abs(np.diag(found).mean() - 10) < 1.5


def test_an_odd_number_of_heads_is_refused(started):
  with pytest.raises(ValueError, match='must be even, not 3'):
    local_start(
      started[2]['params']['head'],
      np.random.default_rng(0),
      img2lidar=scenes.rig(SETTING)[1],
      image_size=(24, 48),
      pc_range=SETTING.pc_range,
      depths=12,
      heads=3,
      frequencies=small.FREQUENCIES,
    )


def test_images_of_other_sides_are_refused():
  with pytest.raises(ValueError, match=r'must be \[batch, cameras, 8 h, 8 w, 3\], not \(1, 6, 20, 48, 3\)'):
    jax.eval_shape(lambda: small.SmallCamera(16).init(jax.random.key(0), jnp.zeros((1, 6, 20, 48, 3))))
