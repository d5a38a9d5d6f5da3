import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers import emo
from jaxpapers.emo import counting, official
from jaxpapers.emo.checks import check_boxes, check_images, check_labels
from jaxpapers.engine import UserError

SIZES = dict(depths=(1, 2, 2, 2), widths=(8, 8, 16, 24), expansions=(1.0, 1.5, 2.0, 2.0), head_widths=(4, 4, 8, 12))
PUBLISHED = {  # parameters, buffers, backbone, MACs at 224x224, 256x256 and 192x256, published FLOPs
  'emo_1m': (1361168, 8656, 1191832, 255237672, 430240416, 295647552, 260843664),
  'emo_2m': (2377472, 12592, 2176072, 431917024, 751294144, 515414656, 439363064),
  'emo_5m': (5108848, 21296, 4819272, 892224000, 1554634112, 1064742528, 902583776),
  'emo_6m': (6168496, 23728, 5846856, 950250048, 1689093248, 1143812224, 960752512),
}


def _run(function, *args):
  """Compiled in a hurry: what runs once is not worth optimising."""
  return jax.jit(function)(*args)


def _tiny(**options):
  return emo.EMO(
    **{**SIZES, 'windows': (2, 2, 2, 2), 'kernel_sizes': (3, 3, 3, 3), 'stem_width': 8, 'num_classes': 5, **options}
  )


@functools.cache
def _tiny_variables():
  return jax.tree.map(np.asarray, _run(_tiny().init, jax.random.key(0), jnp.zeros((1, 64, 64, 3))))


def _images(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize('name', emo.VARIANTS)
def test_published_counts(name):
  model = emo.emo(name)
  parameters, buffers, backbone, *work = PUBLISHED[name]
  counts = counting.parameter_counts(official.shapes(model, jnp.zeros((1, 64, 64, 3))))
  assert (counts['total'], counts['buffers']) == (parameters, buffers)
  alone = official.shapes(model, jnp.zeros((1, 64, 64, 3)), method='features')
  assert counting.parameter_counts(alone)['total'] == backbone
  totals = [counting.macs(model, *size).total for size in ((224, 224), (256, 256), (192, 256))]
  assert [*totals, counting.macs(model, 224, 224).published] == work


def test_counts_by_part_and_kind():
  counts = counting.parameter_counts(official.shapes(emo.emo_1m(), jnp.zeros((1, 64, 64, 3))))
  want = dict(stage0=2760, stage1=11504, stage2=27840, stage3=452704, stage4=697024, norm=336, head=169000)
  assert {name: counts[name] for name in want} == want
  m = counting.macs(emo.emo_1m(), 224, 224)
  assert (m.depthwise, m.pointwise, m.stem, m.attention, m.head) == (20970824, 213600384, 8128512, 12369952, 168000)


def test_feature_maps_halve_upwards_and_windows_are_free():
  x = _images(1, 45, 70, 3)
  want = [(1, 23, 35, 8), (1, 12, 18, 8), (1, 6, 9, 8), (1, 3, 5, 16), (1, 2, 3, 24)]
  for windows in ((2, 2, 2, 2), (0, 0, 0, 0), (7, 7, 16, 16)):
    model = _tiny(windows=windows)
    maps = jax.eval_shape(functools.partial(model.apply, method='features'), _tiny_variables(), x)
    assert [y.shape for y in maps] == want


def test_images_are_independent_in_evaluation():
  x = _images(3, 32, 32, 3)
  y, order = _run(_tiny().apply, _tiny_variables(), x), jnp.array([2, 0, 1])
  assert y.shape == (3, 5) and y.dtype == jnp.float32
  np.testing.assert_allclose(_run(_tiny().apply, _tiny_variables(), x[order]), y[order], atol=1e-5)


def test_bfloat16_computes_low_and_answers_in_float32():
  x = _images(2, 32, 32, 3)
  low = _run(_tiny(dtype=jnp.bfloat16).apply, _tiny_variables(), x)
  high = _run(_tiny().apply, _tiny_variables(), x)
  assert low.dtype == jnp.float32
  assert 0 < float(jnp.abs(low - high).max()) < 0.05 * float(jnp.abs(high).max()) + 0.02


def test_attention_switch_removes_queries_and_keys_only():
  with_attention = official.shapes(_tiny(), jnp.zeros((1, 32, 32, 3)))['params']
  without = official.shapes(_tiny(attention=False), jnp.zeros((1, 32, 32, 3)))['params']
  gone = {name for name in with_attention if set(with_attention[name]) != set(without[name])}
  assert gone == {'stage3_block1', 'stage4_block1'}
  assert set(with_attention['stage3_block1']) - set(without['stage3_block1']) == {'qk'}


def test_drop_path_grows_linearly_over_the_blocks():
  model = _tiny(drop_path=0.6)
  rates = [model.block_options(s, j)['drop_path'] for s in (1, 2, 3, 4) for j in range(SIZES['depths'][s - 1])]
  np.testing.assert_allclose(rates, 0.1 * np.arange(7))


def test_frozen_stages_learn_nothing():
  model, x = _tiny(frozen_stages=1), _images(2, 32, 32, 3)
  variables = _tiny_variables()

  def gradient(params):
    def loss(params):
      maps, updated = model.apply(
        {**variables, 'params': params}, x, train=True, method='features', mutable=['batch_stats']
      )
      return jnp.sum(maps[-1] ** 2), updated

    return jax.grad(loss, has_aux=True)(params)

  grads, updated = _run(gradient, variables['params'])
  frozen = emo.frozen_mask(variables['params'], 1)
  assert {name for name, tree in frozen.items() if all(jax.tree.leaves(tree))} == {'stem', 'stage1_block0'}
  for name in ('stem', 'stage1_block0', 'stage2_block1', 'stage4_block0'):
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads[name]))
    moved = jax.tree.map(
      lambda a, b: bool((a != b).any()), updated['batch_stats'][name], variables['batch_stats'][name]
    )
    assert (largest == 0) == all(jax.tree.leaves(frozen[name]))
    assert any(jax.tree.leaves(moved)) != all(jax.tree.leaves(frozen[name]))


def test_norm_eval_normalises_in_training_as_in_evaluation():
  model, x, variables = _tiny(norm_eval=True), _images(2, 32, 32, 3), _tiny_variables()
  trained, kept = _run(functools.partial(model.apply, train=True, mutable=['batch_stats']), variables, x)
  np.testing.assert_allclose(trained, _run(_tiny().apply, variables, x), atol=1e-5)
  assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), kept['batch_stats'], variables['batch_stats']))


def test_weights_survive_the_official_names():
  variables, model = _tiny_variables(), _tiny()
  state = official.export_official(variables)
  assert state['stage3.1.qk.conv.weight'].shape == (32, 16, 1, 1)
  assert state['stage0.1.conv_local.conv.weight'].shape == (8, 1, 3, 3)
  assert 'stage3.1.norm.norm.weight' in state and 'stage1.0.norm.running_mean' in state
  wrapped = {f'module.{key}': value for key, value in state.items()}
  nested = {'net_E': state, 'net': {}, 'epoch': 3}
  flat = {f'net.{key}': value for key, value in state.items()} | {'optimizer.step': np.zeros(())}
  for source in (state, wrapped, nested, flat):
    got = official.import_official(source, model)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), got, variables))
  dense = {f'backbone.{k}': v for k, v in state.items() if not k.startswith(('head.', 'norm.'))} | {
    'neck.w': np.ones(1)
  }
  backbone, rest = official.import_backbone(dense, model)
  assert list(rest) == ['neck.w'] and 'head' not in backbone['params']


def test_released_sizes_have_the_released_number_of_entries():
  for name, entries in (('emo_1m', 217), ('emo_2m', 258)):
    template = official.shapes(emo.emo(name), jnp.zeros((1, 32, 32, 3)))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), template)
    assert len(official.export_official(zeros)) == entries


def test_wrong_weights_are_all_named():
  state = official.export_official(_tiny_variables())
  state['stage4.1.qk.conv.weight'] = np.zeros((3, 24, 1, 1))
  state['extra.weight'] = np.zeros(2)
  del state['head.bias']
  with pytest.raises(UserError) as error:
    official.import_official(state, _tiny())
  for part in (
    'stage4.1.qk.conv.weight has shape (3, 24, 1, 1), not (48, 24, 1, 1)',
    'extra.weight',
    'head.bias is missing',
  ):
    assert part in str(error.value)
  assert 'stage1' not in str(error.value)


@pytest.mark.parametrize(
  ('images', 'message'),
  [
    (jnp.zeros((32, 32, 3)), r'\(32, 32, 3\)'),
    (jnp.zeros((1, 32, 32, 3), jnp.uint8), 'uint8'),
    (jnp.zeros((1, 32, 32, 4)), '4 channels'),
    (jnp.zeros((1, 0, 32, 3)), 'empty'),
  ],
)
def test_bad_images_are_named(images, message):
  with pytest.raises(ValueError, match=message):
    _tiny().apply(_tiny_variables(), images)


def test_bad_sizes_and_variants_are_named():
  with pytest.raises(ValueError, match='emo_6m'):
    emo.emo('emo_9m')
  with pytest.raises(ValueError, match='windows has 2'):
    _tiny(windows=(7, 7)).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def test_bad_data_is_named():
  images = np.zeros((3, 4, 4, 3), np.float32)
  check_images(images)
  images[1, 2, 2, 0] = np.nan
  with pytest.raises(UserError, match=r'\[1\]'):
    check_images(images)
  with pytest.raises(UserError, match='uint8'):
    check_images(np.zeros((1, 4, 4, 3), np.uint8))
  check_labels(np.array([0, 4, 255]), 5, ignore=255)
  with pytest.raises(UserError, match=r'\[5\].*0\.\.4'):
    check_labels(np.array([0, 5]), 5)
  check_boxes(np.array([[0, 0, 1, 1]]))
  with pytest.raises(UserError, match=r'\(1,\)'):
    check_boxes(np.array([[0, 0, 1, 1], [3, 0, 3, 1]]))
