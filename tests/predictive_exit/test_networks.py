"""Networks, exits, counts, import, and inference that really stops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.predictive_exit import costs, early_exit, official, training
from jaxpapers.predictive_exit.exits import PooledExits, bag_of_features, pooled_vector
from jaxpapers.predictive_exit.model import MultiExit, network
from jaxpapers.predictive_exit.prediction import activation_level, official_walk
from jaxpapers.predictive_exit.vgg import POOL, ConvNet


@pytest.fixture(scope='module')
def tiny():
  """(network with four pooled exits, variables, images, logits of all exits)."""
  backbone = ConvNet((4, 4, POOL, 6, 6, POOL, 8), (0, 1, 3, 4), 5)
  model = MultiExit(backbone, PooledExits(4, 5, 6 * 4, 2), 4, 8)
  images = jax.random.normal(jax.random.key(1), (6, 8, 8, 3))
  variables = jax.jit(model.init)(jax.random.key(0), images[:1])
  return model, variables, images, np.asarray(jax.jit(model.apply)(variables, images))


def test_bag_of_features_is_its_definition():
  rng = np.random.default_rng(0)
  s = rng.normal(size=(2, 5, 5, 3))
  a, c, n1, n2 = ([v] for v in (1.2, -0.3, 3.0, 2.5))
  u = 1 / (1 + np.exp(-2 * (1.2 * s - 0.3)))
  v = 3.0 * u / u.sum(-1, keepdims=True)
  want = np.zeros((2, 3, 2, 2))
  for y in range(2):
    for x in range(2):
      want[:, :, y, x] = 2.5 * v[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean((1, 2))
  got = bag_of_features(jnp.asarray(s), *map(jnp.asarray, (a, c, n1, n2)), horizon=2)
  np.testing.assert_allclose(got, want.reshape(2, -1), rtol=1e-5)


@pytest.mark.parametrize(
  ('name', 'classes', 'total', 'exits'),
  [
    ('vgg19', 10, 20_119_332, 78_810),
    ('vgg19', 100, 20_171_352, 84_660),
    ('vgg19_stl10', 10, 20_328_292, 246_810),
    ('resnet34', 10, 21_593_266, 311_144),
    ('resnet34', 100, 21_662_836, 334_544),
    ('pooled_vgg19', 10, 20_117_472, 76_950),
    ('pooled_resnet34', 10, 21_364_202, 82_080),
  ],
)
def test_parameter_counts(name, classes, total, exits):
  model = network(name, classes)
  image = jax.ShapeDtypeStruct((1, model.image_size, model.image_size, 3), jnp.float32)
  counts = costs.parameter_count(jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image))
  assert (counts['total'], counts['exits']) == (total, exits)


@pytest.mark.parametrize(
  ('name', 'plain', 'heads'), [('vgg19', 398_136_320, 21_574_144), ('resnet34', 1_159_402_496, 58_216_448)]
)
def test_multiply_adds(name, plain, heads):
  work = costs.work(network(name, 10))
  assert work.costs.segment_macs.sum() + work.costs.head_macs[-1] == plain
  assert work.costs.head_macs[:-1].sum() == heads
  assert work.costs.segment_macs.sum() == sum(layer.macs for part in work.segments for layer in part)


def test_counts_without_borders_are_those_of_xla():
  layer = costs.work(network('pooled_vgg19', 10)).segments[1][0]
  x, kernel = jnp.zeros((1, 32, 32, 64)), jnp.zeros((3, 3, 64, 64))
  native = lambda x, k: jax.lax.conv_general_dilated(  # noqa: E731
    x, k, (1, 1), ((1, 1), (1, 1)), dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  assert jax.jit(native).lower(x, kernel).compile().cost_analysis()['flops'] == layer.xla_flops == 72_384_512


def test_padded_head_equals_unpadded_and_a_grid_must_divide():
  tap = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
  np.testing.assert_array_equal(pooled_vector(tap, 2, 40)[:, :12], pooled_vector(tap, 2, 12))
  assert not np.any(pooled_vector(tap, 2, 40)[:, 12:])
  with pytest.raises(ValueError, match='3x3 does not divide a map of 4x4'):
    pooled_vector(tap, 3, 40)


def test_weights_come_back_and_wrong_ones_are_named(tiny):
  model, variables, _, _ = tiny
  state = official.export_official(variables, model)
  assert state['features.0.weight'].shape == (4, 3, 3, 3) and state['exits.weight'].shape == (4, 5, 24)
  back = official.import_official(state, model)
  jax.tree.map(np.testing.assert_array_equal, back, jax.tree.map(np.asarray, variables))
  state['features.0.weight'] = np.zeros((4, 3, 7, 7), np.float32)
  state['surprise'] = state.pop('classifier.bias')
  with pytest.raises(ValueError) as caught:
    official.import_official(state, model)
  for part in ('features.0.weight (4, 3, 7, 7) != (4, 3, 3, 3)', 'classifier.bias is missing', 'surprise is not in'):
    assert part in str(caught.value)
  told = []
  without = {k: v for k, v in official.export_official(variables, model).items() if not k.startswith('exits')}
  official.import_official(without, model, report=told.append)
  assert 'exits.weight' in told[0]
  with pytest.raises(ValueError, match='state_dict'):
    official.import_official({'model': object()}, model)


def test_large_stem_is_refused_by_name():
  model = network('pooled_resnet34', 10)
  with pytest.raises(ValueError, match=r'conv1.weight \(64, 3, 7, 7\) != \(64, 3, 3, 3\)'):
    official.import_official({'conv1.weight': np.zeros((64, 3, 7, 7), np.float32)}, model)


def test_small_maps_become_a_matmul_on_cpu():
  model = network('vgg19', 10)
  shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), jnp.zeros((1, 32, 32, 3)))
  for k, side in ((12, 4), (17, 2)):
    carry = (jax.ShapeDtypeStruct((1, side, side, 512), jnp.float32),)
    step = jax.jit(lambda v, c, k=k: model.apply(v, c, k, method='segment'))
    assert 'convolution' not in step.lower(shapes, carry).as_text()


def test_frozen_backbone_stays_bit_equal_and_exits_learn(tiny):
  import optax

  from jaxpapers.engine import supervised

  model, variables, images, _ = tiny
  frozen = model.clone(freeze_backbone=True)
  parts = supervised(frozen, training.official_loss, optax.adam(1e-2), start=lambda _: dict(variables))
  batch = {'image': images, 'label': jnp.arange(6) % 5}
  state = jax.jit(lambda key: parts.init(key, batch, {}))(jax.random.key(0))
  state, _ = jax.jit(parts.step)(state, batch, jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, state.params['backbone'], variables['params']['backbone'])
  jax.tree.map(np.testing.assert_array_equal, state.model_state['batch_stats'], variables['batch_stats'])
  assert np.any(state.params['heads']['weight'] != variables['params']['heads']['weight'])


@pytest.mark.parametrize('policy', ['classic', 'official'])
def test_stopping_early_equals_the_table(tiny, policy):
  model, variables, images, logits = tiny
  levels = np.full(4, 0.5)
  beta = float(np.median(activation_level(logits[:, 0]))) / 0.5
  if policy == 'official':
    decide, start = early_exit.official_decision(levels, beta), 1
    way = official_walk(logits, levels, beta, start)
    taken, visited = np.asarray(way.exit), np.asarray(way.visited)
  else:
    decide, start = early_exit.threshold_decision(activation_level, beta * 0.5), 1
    sure = np.concatenate([np.asarray(activation_level(logits[:, :-1])) >= beta * 0.5, np.ones((6, 1), bool)], 1)
    taken = np.argmax(sure, 1)
    visited = np.arange(4) <= taken[:, None]
  assert len(set(taken)) > 1
  segment = jax.jit(lambda c, k: model.apply(variables, c, k, method='segment'), static_argnums=1)
  head = jax.jit(lambda c, k: model.apply(variables, c, k, method='head'), static_argnums=1)
  left, ran = early_exit.leave_early_batch(segment, head, 4, decide, (images,), start - 1)
  np.testing.assert_array_equal(left.exit, taken)
  np.testing.assert_array_equal(left.visited, visited)
  np.testing.assert_allclose(left.logits, logits[np.arange(6), taken], atol=1e-5)
  assert ran[0, 0] == 8 and np.all(np.diff(ran[:, 0]) <= 0)
  single = jax.jit(functools.partial(early_exit.leave_early, segment, head, 4, decide, start=start - 1))
  for i in range(6):
    one = single((images[i : i + 1],))
    assert int(one.exit[0]) == taken[i]
    np.testing.assert_array_equal(one.visited[0], visited[i])
    np.testing.assert_allclose(one.logits[0], logits[i, taken[i]], atol=1e-5)
  # The program branches: a rest that is not run is not computed. (Under vmap it would be a select.)
  assert 'cond' in str(jax.make_jaxpr(lambda x: single((x,)))(images[:1]))


def test_what_a_network_refuses():
  with pytest.raises(ValueError, match='32x32 pixels, not 16x16'):
    jax.eval_shape(lambda x: network('vgg19', 10).init(jax.random.key(0), x), jnp.zeros((1, 16, 16, 3)))
  with pytest.raises(ValueError, match='vgg20.*known: vgg19'):
    network('vgg20', 10)
  with pytest.raises(ValueError, match='one image, not 2'):
    early_exit.leave_early(None, None, 4, None, (jnp.zeros((2, 8, 8, 3)),))
