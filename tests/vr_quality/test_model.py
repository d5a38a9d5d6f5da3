"""Quality models: constants, sizes, starting directions, names of the authors' and torchvision's weights, the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.layers.resnet import ResNet18
from jaxpapers.vr_quality import official, panoramas, pooling, pseudocylindrical, tables
from jaxpapers.vr_quality.losses import plcc_loss
from jaxpapers.vr_quality.model import QualityModel, ThinNet, erp_resnet18, pconv_resnet18, plain_network, tile_network
from jaxpapers.vr_quality.rotate import centre_on, rotate_erp
from jaxpapers.vr_quality.sphere import lonlat_to_pixel, unit_vector

THIN = tile_network(ThinNet, channels=(4, 4, 6), strides=(1, 2, 1))
SMALL = tile_network(ThinNet, channels=(4, 4), strides=(1, 2))


def filled(model, seed=0, dtype=np.float32):
  """Variables with random entries; variances are positive."""
  rng = np.random.default_rng(seed)

  def fill(path, leaf):
    name = path[-1].key
    values = rng.normal(0, np.sqrt(2 / max(1, np.prod(leaf.shape[:-1]))), leaf.shape) if name == 'kernel' else 0
    values = rng.uniform(0.5, 1.5, leaf.shape) if name in ('scale', 'var') else values
    return np.asarray(values + rng.normal(0, 0.1, leaf.shape) * (name in ('bias', 'mean')), dtype)

  return jax.tree_util.tree_map_with_path(fill, official.template(model))


def test_a_constant_panorama_has_constant_features_at_every_layer_and_a_finite_slope():
  deep, thin = QualityModel(tile_network(ResNet18, width=4), 2, 8), QualityModel(THIN, 2, 8)
  frames = jnp.full((1, 64, 128, 3), 0.4)

  @jax.jit
  def program(frames):
    sliced = pseudocylindrical.sphere_slice(frames, 2)
    maps = [model.apply(filled(model), sliced, method=lambda module, x: module.backbone(x)) for model in (deep, thin)]
    return maps, jax.value_and_grad(lambda x: thin.apply(filled(thin), x).score[0, 0])(frames[None, :, :16, :32])

  maps, (score, slope) = program(frames)
  assert [len(each) for each in maps] == [4, 3]
  for x in (*maps[0], *maps[1]):
    valid = np.asarray(x)[:, tables.valid_mask(2, x.shape[3])[:, None].repeat(x.shape[2], 1)]
    assert np.ptp(valid, axis=1).max() < 1e-5 * max(1, np.abs(valid).max()) and np.abs(valid).max() > 1e-3
  assert np.isfinite(score) and np.all(np.isfinite(slope)) and np.abs(slope).max() > 0


def test_sizes_that_do_not_halve_are_refused_before_compiling():
  model = pconv_resnet18(4, 4)
  for height, width, message in ((96, 256, 'H must be a multiple of 128'), (128, 240, 'W of 32')):
    frames = jax.ShapeDtypeStruct((1, 1, height, width, 3), jnp.float32)
    with pytest.raises(ValueError, match=rf'{height} x {width} do not fit 4 tiles and 5 halvings: .*{message}'):
      jax.eval_shape(model.init, jax.random.key(0), frames)
  with pytest.raises(ValueError, match='Clips of 2 frames'):
    visible = QualityModel(THIN, 4, pooling='visibility')
    jax.eval_shape(visible.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 2, 16, 32, 3), jnp.float32))
  with pytest.raises(ValueError, match="'median'"):
    jax.eval_shape(QualityModel(THIN, 4, pooling='median').init, jax.random.key(0), jnp.zeros((1, 1, 16, 32, 3)))


def test_no_concentration_is_the_area_weighted_mean():
  frames = np.random.default_rng(1).normal(size=(2, 1, 16, 32, 3))
  visible, area = (QualityModel(SMALL, 4, 8, pooling) for pooling in ('visibility', 'area'))
  with jax.enable_x64(True):
    variables = filled(visible, dtype=np.float64)
    everywhere = {**variables, 'params': {**variables['params'], 'concentration': jnp.full((1, 2), -jnp.inf)}}
    plain = {**variables, 'params': {k: v for k, v in variables['params'].items() if k != 'concentration'}}
    toward = np.array([[0.0, 1.0, 0.0], [0.6, 0.0, 0.8]])
    one = jax.jit(visible.apply)(everywhere, frames, toward)
    two = jax.jit(area.apply)(plain, frames)
    np.testing.assert_allclose(one.score, two.score, rtol=1e-12)
    np.testing.assert_allclose(
      one.score[:, 0], np.sum(one.map[:, 0] * pooling.area_weights(8, 16, jnp.float64), (1, 2))
    )
    weights = pooling.visibility_weights(8, 16, jnp.asarray(toward), jnp.zeros(2))
    np.testing.assert_allclose(weights, jnp.stack([pooling.area_weights(8, 16, jnp.float64)] * 2), rtol=1e-12)


def test_the_start_changes_the_score_with_the_slope_of_central_differences():
  model = QualityModel(SMALL, 4, 8, 'visibility', initial_concentration=4.0)
  frames = np.random.default_rng(2).normal(size=(16, 32, 3))
  starts = np.array([(0.3, 0.2), (np.pi, -0.3), (-2.0, np.pi / 2), (1.0, -1.5)])
  steps = 1e-5 * np.eye(2)
  near = (starts[:, None, None] + np.stack([steps, -steps])).reshape(-1, 2)

  with jax.enable_x64(True):
    variables = filled(model, dtype=np.float64)
    variables['params']['concentration'] = jnp.full((1, 2), 4.0)

    def looking(start):
      toward = unit_vector(start[0], start[1])
      return model.apply(variables, frames[None, None], toward[None]).score[0, 0]

    def turned(start):
      image = rotate_erp(jnp.asarray(frames), centre_on(start[0], start[1]), 'catmull_rom')
      return model.apply(variables, image[None, None]).score[0, 0]

    @jax.jit
    def program(starts, near):
      each = [(jax.lax.map(jax.value_and_grad(f), starts), jax.lax.map(f, near)) for f in (looking, turned)]
      quality = model.apply(variables, frames[None, None]).map[0]
      k = jnp.full(1, jax.nn.softplus(4.0))
      return each, pooling.scores_from_starts(quality, k, unit_vector(starts[:, 0], starts[:, 1]))

    each, (scores, slopes) = program(starts, near)
  each, scores, slopes = jax.tree.map(np.asarray, (each, scores, slopes))
  for (value, slope), around in each:
    around = np.asarray(around).reshape(len(starts), 2, 2)
    difference = (around[:, 0] - around[:, 1]) / 2e-5
    np.testing.assert_allclose(slope, difference, atol=1e-3 * np.abs(difference).max())
    assert np.ptp(value) > 1e-2
  np.testing.assert_allclose(scores, each[0][0][0], rtol=1e-9)
  # Along the parallel a radian of longitude is cos(latitude) long.
  np.testing.assert_allclose(slopes[:, 0] * np.cos(starts[:, 1]), each[0][0][1][:, 0], atol=1e-9)
  keep = np.abs(starts[:, 1]) < 1.55
  np.testing.assert_allclose(slopes[keep, 1], np.asarray(each[0][0][1])[keep, 1], atol=1e-9)


@pytest.mark.parametrize('model', [pconv_resnet18(4, 2, hidden=6), erp_resnet18(4, hidden=6)], ids=['pconv', 'erp'])
def test_state_dicts_come_and_go_whole_and_every_misfit_is_listed(model):
  variables = filled(model)
  state = official.export_official(variables)
  assert state['backbone.conv1.weight'].shape == (4, 3, 7, 7) and state['quality.0.weight'].shape == (6, 32)
  jax.tree.map(np.testing.assert_array_equal, official.import_official(state, model), variables)
  damaged = {k: v for k, v in state.items() if k != 'backbone.layer3.1.bn2.running_var'}
  damaged['backbone.layer9.weight'] = np.zeros(3)
  damaged['quality.0.weight'] = np.zeros((6, 31))
  with pytest.raises(ValueError) as caught:
    official.import_official(damaged, model)
  for part in (
    'backbone.layer3.1.bn2.running_var is missing',
    'backbone.layer9.weight is unexpected',
    'quality.0.weight has shape (6, 31), not (6, 32)',
  ):
    assert part in str(caught.value)
  bare = {k.removeprefix('backbone.'): v for k, v in state.items() if k.startswith('backbone.')}
  classifier = {'fc.weight': np.zeros((10, 32)), 'fc.bias': np.zeros(10)}
  assert official.is_torchvision(bare) and not official.is_torchvision(state)
  backbone = official.import_backbone({**bare, **classifier}, model)
  jax.tree.map(np.testing.assert_array_equal, backbone['params']['backbone'], variables['params']['backbone'])
  assert set(backbone['params']) == {'backbone'}
  with pytest.raises(ValueError, match=r'layer1.0.conv1.weight is missing.*layer5.bias is unexpected'):
    without = {k: v for k, v in bare.items() if k != 'layer1.0.conv1.weight'}
    official.import_backbone({**without, 'layer5.bias': np.zeros(4)}, model)


def test_full_models_have_the_published_number_of_parameters():
  for model in (pconv_resnet18(), erp_resnet18()):
    params = official.template(model)['params']
    counts = {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in params.items()}
    assert counts['backbone'] == 11_176_512 and sum(counts.values()) == 11_242_305


def test_loss_has_its_closed_form_and_survives_equal_predictions():
  rng = np.random.default_rng(3)
  p, y = np.float32(rng.normal(size=20)), np.float32(rng.uniform(1, 5, 20))
  step = jax.jit(jax.value_and_grad(plcc_loss))
  rho = np.corrcoef(p, y)[0, 1]
  assert abs(step(p, y)[0] - ((1 - rho) / 4 + (1 - rho**2) / 8)) < 1e-6
  assert abs(step(3 * y + 2, y)[0]) < 1e-6 and abs(step(-y, y)[0] - 0.5) < 1e-6
  loss, slope = step(np.full(20, 2.5, np.float32), y)
  assert np.isfinite(loss) and np.all(np.isfinite(slope)) and np.abs(slope).max() < 1e3
  with jax.enable_x64(True):
    assert abs(jax.jit(jax.grad(plcc_loss))(p.astype(float), y.astype(float))).max() > 0


def test_scenes_are_seamless_and_start_a_faces_the_distortion():
  made = panoramas.scenes(0, 6, 32, 64)
  again = panoramas.scenes(0, 6, 32, 64)
  np.testing.assert_array_equal(made.image, again.image)
  column, row = lonlat_to_pixel(*np.moveaxis(made.start, -1, 0), 32, 64)
  at = made.severity[np.arange(6)[:, None], np.round(row).astype(int), np.round(column).astype(int) % 64]
  assert np.all(at[:, 0] > made.severity.max((1, 2)) - 0.03) and np.all(at[:, 0] > at[:, 1])
  seam = np.abs(made.severity[:, :, 0] - made.severity[:, :, -1]).max()
  assert seam <= np.abs(np.diff(made.severity, axis=2)).max() + 1e-6
  with pytest.raises(ValueError, match='not 30 x 60'):
    panoramas.scenes(0, 1, 30, 60)


def test_networks_without_tiles_see_viewports_of_any_size():
  model = QualityModel(plain_network(ThinNet, channels=(4, 4), strides=(1, 2)), 0, 4, frames=3)
  out = jax.eval_shape(model.apply, official.template(model), jax.ShapeDtypeStruct((2, 3, 10, 14, 3), jnp.float32))
  assert out.score.shape == (2, 2) and out.frames.shape == (2, 3, 2) and out.map.shape == (2, 3, 5, 7)
