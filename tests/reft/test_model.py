"""Structure of RefT: what the references must not change, and what they must."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers import reft
from jaxpapers.reft.model import RefT
from tests.reft import small


def numbers(tree) -> int:
  return sum(x.size for x in jax.tree.leaves(tree))


def forward(model: RefT):
  """Compiled (variables, support examples, images) -> predictions."""

  def run(variables, examples, images):
    support = model.apply(variables, *examples, method='support')
    return model.apply(variables, images, support)

  return jax.jit(run)


def initial(model: RefT):
  def both(module, images, masks, classes):
    return module(images, module.support(images, masks, classes))

  return jax.jit(lambda key, *args: model.init(key, *args, method=both))(jax.random.key(0), *small.examples(3))


def shaken(variables):
  """Every parameter moved, so that nothing is the identity any more."""
  leaves, tree = jax.tree.flatten(variables['params'])
  keys = jax.random.split(jax.random.key(7), len(leaves))
  moved = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
  return {**variables, 'params': tree.unflatten(moved)}


@pytest.fixture(scope='module')
def supported():
  model = small.reft()
  return model, initial(model), forward(model)


def test_published_sizes():
  template = jax.eval_shape(reft.mask2former_r50(80).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
  assert numbers(template['params']) == 43_970_257
  assert numbers(template['params']['backbone']) == 23_454_912
  assert numbers(template['params']['pixel_decoder']) == 6_035_904
  assert numbers(template['params']['decoder']) == 14_479_441
  assert numbers(template['frozen']) == 106_240

  def whole(module, images, masks, classes):
    return module(images, module.support(images, masks, classes))

  args = jnp.zeros((2, 64, 64, 3)), jnp.zeros((2, 64, 64)), jnp.zeros(2, jnp.int32)
  model = reft.reft_r50(80)
  added = jax.eval_shape(lambda k: model.init(k, *args, method=whole), jax.random.key(0))
  assert numbers(added['params']) == 46_079_185
  assert numbers(added['params']['query_reference']) == 1_315_584
  assert numbers(added['params']['feature_reference0']) == 264_448


def test_starts_as_mask2former():
  model = small.reft(support_classifier=False)
  variables = initial(model)
  images = small.examples(2, seed=3)[0]
  base = {name: part['base'] for name, part in variables.items()}
  plain = jax.jit(model.base.apply)(base, images)
  for count in (1, 4):
    found = forward(model)(variables, small.examples(count), images)
    # Two programs: the same operations, fused differently.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, plain)


def test_order_and_repetition_of_the_support_do_not_matter(supported):
  model, variables, run = supported
  variables = shaken(variables)
  images, masks, classes = small.examples(4)
  queries = small.examples(2, seed=5)[0]
  want = run(variables, (images, masks, classes), queries)
  order = np.asarray([2, 0, 3, 1])
  shuffled = run(variables, (images[order], masks[order], classes[order]), queries)
  twice = run(variables, tuple(jnp.concatenate([x, x]) for x in (images, masks, classes)), queries)
  for got in (shuffled, twice):
    np.testing.assert_allclose(got.logits, want.logits, atol=1e-4)
    np.testing.assert_allclose(got.masks, want.masks, atol=1e-3)


def test_padding_examples_are_not_seen(supported):
  model, variables, run = supported
  variables = shaken(variables)
  images, masks, classes = small.examples(4)
  queries = small.examples(2, seed=5)[0]
  want = run(variables, (images[:2], masks[:2], classes[:2]), queries)
  got = run(variables, (images, masks, jnp.where(jnp.arange(4) < 2, classes, -1)), queries)
  np.testing.assert_allclose(got.logits, want.logits, atol=1e-4)


def test_absent_class_keeps_its_free_row(supported):
  model, variables, _ = supported
  head = model.base.decoder.classifier
  params = {'params': shaken(variables)['params']['base']['decoder']['classifier']}
  present = jnp.asarray([True, False, True])
  rows = head.apply(params, jnp.ones((3, 8)), present, method='rows')
  np.testing.assert_array_equal(rows[1], params['params']['weight'][1])
  np.testing.assert_array_equal(rows[3], params['params']['weight'][3])
  assert not np.allclose(rows[0], params['params']['weight'][0])


def test_zero_row_has_a_finite_gradient():
  gradient = jax.grad(lambda w: reft.cosine_logits(jnp.ones((2, 4)), w, 20.0).sum())(jnp.zeros((3, 4)))
  assert np.isfinite(gradient).all()


def test_weights_round_trip_and_strictness():
  model = small.base()
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *small.SIZE, 3)))
  state = reft.export_variables(variables)
  back = reft.import_official(state, model, small.SIZE)
  want, got = (flax.traverse_util.flatten_dict(dict(tree)) for tree in (variables, back))
  assert want.keys() == got.keys()
  for path in want:
    np.testing.assert_array_equal(got[path], want[path])
  old = {k.replace('query_feat', 'static_query').replace('pixel_decoder.', ''): v for k, v in state.items()}
  assert reft.import_official(old, model, small.SIZE).keys() == back.keys()
  state['sem_seg_head.predictor.class_embed.weight'] = np.zeros((9, 8), np.float32)
  state['sem_seg_head.predictor.extra'] = np.zeros(1)
  del state['backbone.stem.conv1.weight']
  with pytest.raises(ValueError) as error:
    reft.import_official(state, model, small.SIZE)
  for name in ('backbone.stem.conv1.weight is missing', 'class_embed.weight has shape (9, 8)', 'extra is unexpected'):
    assert name in str(error.value)


def test_sampling_equals_scipy():
  from scipy.ndimage import map_coordinates

  maps = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32)
  points = np.random.default_rng(1).uniform(-0.2, 1.2, size=(2, 40, 2)).astype(np.float32)
  got = reft.sample_points(jnp.asarray(maps), jnp.asarray(points))
  for image, at, values in zip(maps, points, got, strict=True):
    padded = np.pad(image, 3)
    places = [at[:, 1] * 5 - 0.5 + 3, at[:, 0] * 7 - 0.5 + 3]
    np.testing.assert_allclose(values, map_coordinates(padded, places, order=1), atol=1e-5)
