"""Structure of RefT: what the references must not change, and what they must."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers import reft
from jaxpapers.reft import sampling
from jaxpapers.reft.model import RefT, Switches
from jaxpapers.reft.references import FeatureReference
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


PLACES = 8


def placed(images, masks, classes, garbage=0):
  """Examples in the first of eight places, noise in the others: one shape, so that one program serves all tests."""
  noise = small.examples(PLACES, seed=50 + garbage)
  count = len(images)
  kept = (jnp.concatenate([x, n[count:]]) for x, n in zip((images, masks), noise, strict=False))
  return *kept, jnp.concatenate([classes, jnp.full(PLACES - count, -1, jnp.int32)])


def test_starts_as_mask2former(supported):
  """Queries and masks of the untouched network, whatever the support; classes are read from the queries."""
  model, variables, run = supported
  images = small.examples(2, seed=3)[0]
  base = {name: part['base'] for name, part in variables.items()}

  @jax.jit
  def plain(base, images):
    nothing = jnp.zeros((small.CLASSES, 8)), jnp.zeros(small.CLASSES, bool)
    return model.base.apply(base, images, *nothing)

  want = plain(base, images)
  for count in (1, 4):
    found = run(variables, placed(*small.examples(count)), images)
    # Two programs: the same operations, fused differently.
    np.testing.assert_allclose(found.queries, want.queries, atol=1e-4)
    np.testing.assert_allclose(found.masks, want.masks, atol=1e-4)


@pytest.fixture(scope='module')
def episode(supported):
  """Compiled (variables, examples, images, three switches) -> predictions in one pass."""
  model = supported[0]

  @jax.jit
  def run(variables, examples, images, on):
    return model.apply(variables, images, examples, switches=Switches(*on), method='episode')[0]

  return lambda variables, examples, images, on: run(variables, examples, images, jnp.asarray(on, jnp.float32))


def test_switched_off_parameters_of_references_do_not_matter(supported, episode):
  _, variables, _ = supported
  variables = shaken(variables)
  images, examples = small.examples(2, seed=5)[0], placed(*small.examples(4))
  off = episode(variables, examples, images, (0, 0, 0))
  moved = jax.tree_util.tree_map_with_path(lambda path, x: x + 1.0 if 'reference' in str(path[1]) else x, variables)
  jax.tree.map(np.testing.assert_array_equal, episode(moved, examples, images, (0, 0, 0)), off)
  for switches in np.eye(3):
    on = episode(variables, examples, images, switches)
    assert not np.allclose(on.logits[-1], off.logits[-1], atol=1e-3)


def test_one_pass_equals_support_then_prediction(supported, episode):
  _, variables, run = supported
  variables = shaken(variables)
  images, examples = small.examples(2, seed=5)[0], placed(*small.examples(4))
  want = run(variables, examples, images)
  got = episode(variables, examples, images, (1, 1, 1))
  np.testing.assert_allclose(got.logits, want.logits, atol=1e-4)
  np.testing.assert_allclose(got.masks, want.masks, atol=1e-3)


def test_order_and_repetition_of_the_support_do_not_matter(supported):
  _, variables, run = supported
  variables = shaken(variables)
  images, masks, classes = small.examples(4)
  queries = small.examples(2, seed=5)[0]
  want = run(variables, placed(images, masks, classes), queries)
  order = np.asarray([2, 0, 3, 1])
  shuffled = run(variables, placed(images[order], masks[order], classes[order]), queries)
  twice = run(variables, tuple(jnp.concatenate([x, x]) for x in (images, masks, classes)), queries)
  for got in (shuffled, twice):
    np.testing.assert_allclose(got.logits, want.logits, atol=1e-4)
    np.testing.assert_allclose(got.masks, want.masks, atol=1e-3)


def test_padding_examples_are_not_seen(supported):
  _, variables, run = supported
  variables = shaken(variables)
  queries = small.examples(2, seed=5)[0]
  want, got = (run(variables, placed(*small.examples(2), garbage=g), queries) for g in (0, 1))
  jax.tree.map(np.testing.assert_array_equal, got, want)


def test_permuting_the_classes_permutes_the_logits_alone(supported):
  _, variables, run = supported
  variables = shaken(variables)
  images, masks, classes = placed(*small.examples(2))
  queries = small.examples(2, seed=5)[0]
  want = run(variables, (images, masks, classes), queries)
  order = np.asarray([2, 0, 1])
  head = variables['params']['base']['decoder']['classifier']
  weight = head['weight'].at[order].set(head['weight'][:3])
  moved = jax.tree.map(lambda x: x, variables)
  moved['params']['base']['decoder']['classifier'] = {**head, 'weight': weight}
  got = run(moved, (images, masks, jnp.where(classes >= 0, jnp.asarray(order)[classes], -1)), queries)
  np.testing.assert_allclose(got.logits[..., order], want.logits[..., :3], atol=1e-4)
  np.testing.assert_allclose(got.logits[..., 3], want.logits[..., 3], atol=1e-4)
  np.testing.assert_allclose(got.masks, want.masks, atol=1e-3)


def test_an_absent_class_gets_no_attention():
  module = FeatureReference(2)
  tokens, centers = jax.random.normal(jax.random.key(1), (1, 6, 8)), jax.random.normal(jax.random.key(2), (3, 8))
  present = jnp.asarray([True, False, True])
  variables = shaken(module.init(jax.random.key(0), tokens, centers, present))
  run = jax.jit(module.apply)
  want = run(variables, tokens, centers, present)
  np.testing.assert_array_equal(run(variables, tokens, centers.at[1].set(99.0), present), want)
  assert not np.allclose(run(variables, tokens, centers.at[0].set(99.0), present), want)


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


def test_maps_at_shared_points_equal_each_at_its_own():
  maps = np.random.default_rng(0).normal(size=(4, 5, 7)).astype(np.float32)
  points = np.random.default_rng(1).uniform(-0.2, 1.2, size=(40, 2)).astype(np.float32)
  each = reft.sample_points(jnp.asarray(maps), jnp.broadcast_to(points, (4, 40, 2)))
  np.testing.assert_allclose(sampling.sample_shared(jnp.asarray(maps), jnp.asarray(points)), each, atol=1e-6)
