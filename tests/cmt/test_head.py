import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.cmt import denoising
from jaxpapers.cmt.attention import attention
from jaxpapers.cmt.head import Head

SIZE = (32, 64)
RANGE = (-20.0, -20.0, -3.0, 20.0, 20.0, 3.0)
SMALL = {
  'num_queries': 6,
  'width': 16,
  'layers': 2,
  'heads': 2,
  'hidden': 24,
  'tasks': (3,),
  'head_width': 8,
  'depths': 4,
  'pc_range': RANGE,
}


def projections(cameras, seed=0):
  """Pinhole cameras at the origin, evenly turned about the vertical: [1, cameras, 4, 4] and its inverse."""
  matrices = []
  for index in range(cameras):
    turn = 2 * np.pi * index / cameras + 0.1 * seed
    right, ahead = np.array([np.cos(turn), np.sin(turn), 0]), np.array([-np.sin(turn), np.cos(turn), 0])
    lidar2cam = np.eye(4)
    lidar2cam[:3, :3] = np.stack([right, [0, 0, -1], ahead])
    lidar2cam[:3, 3] = 0.05 * index
    intrinsic = np.diag([20.0, 20.0, 1.0, 1.0])
    intrinsic[:2, 2] = SIZE[1] / 2, SIZE[0] / 2
    matrices.append(intrinsic @ lidar2cam)
  matrices = np.stack(matrices)[None]
  return matrices.astype(np.float32), np.linalg.inv(matrices).astype(np.float32)


def filled(model, rng, *arguments):
  """Random variables of the shapes that initialisation gives; biases too, or they would hide what is masked wrongly."""
  shapes = jax.eval_shape(lambda key: model.init(key, *arguments), jax.random.key(0))

  def draw(shape):
    fan = 1 if len(shape) < 2 else shape[-2]
    return (0.3 if len(shape) < 2 else 1.3) * rng.standard_normal(shape).astype(np.float32) / np.sqrt(fan)

  variables = jax.tree.map(lambda leaf: draw(leaf.shape), shapes)
  variables['params']['reference_points'] = rng.uniform(size=(model.num_queries, 3)).astype(np.float32)
  return {**variables, 'batch_stats': jax.tree.map(lambda x: 1 + np.abs(x), variables['batch_stats'])}


@pytest.fixture(scope='module')
def small():
  """A head with random parameters, its inputs, and one compiled forward pass for all tests."""
  rng = np.random.default_rng(0)
  bev = rng.standard_normal((2, 4, 4, 5)).astype(np.float32)
  images = rng.standard_normal((2, 3, 2, 4, 16)).astype(np.float32)
  matrices = tuple(np.repeat(m, 2, axis=0) for m in projections(3))
  model = Head(**SMALL, block=7)
  variables = filled(model, rng, bev, images, *matrices, SIZE)

  @jax.jit
  def forward(variables, bev, images, lidar2img, img2lidar, has_lidar, has_camera):
    return model.apply(variables, bev, images, lidar2img, img2lidar, SIZE, has_lidar=has_lidar, has_camera=has_camera)

  def run(variables=variables, bev=bev, images=images, matrices=matrices, lidar=(True, True), cameras=None):
    cameras = np.ones(images.shape[:2], bool) if cameras is None else np.asarray(cameras)
    return forward(variables, bev, images, *matrices, np.asarray(lidar), cameras)

  return model, variables, bev, images, matrices, run


@pytest.fixture(scope='module')
def noised():
  """Two groups of two slots each, one of them empty in the second sample; the first two of six are not used."""
  settings = {'num_queries': 6, 'num_classes': 3, 'pc_range': RANGE, 'groups': 2}
  noise = denoising.draw_noise(jax.random.key(2), 2, 6)
  boxes = np.tile(np.array([0, 0, 0, 3, 2, 1, 0, 0, 0], np.float32), (2, 3, 1))
  mask = np.array([[True, False, True], [False, True, False]])
  make = jax.jit(lambda *args: denoising.noised_queries(*args, **settings))
  return jax.device_get(make(noise, boxes, np.zeros((2, 3), np.int32), mask))


def close(a, b, tolerance=2e-5):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


def differs(a, b):
  return np.abs(np.asarray(a.states) - np.asarray(b.states)).max() > 1e-3


def test_order_of_cameras_and_queries(small):
  _, variables, _, images, matrices, run = small
  order = np.array([2, 0, 1])
  close(run(images=images[:, order], matrices=tuple(m[:, order] for m in matrices)), run())
  assert differs(run(images=images[:, order]), run())
  order = np.array([3, 1, 5, 0, 4, 2])
  params = variables['params']
  turned = run(variables={**variables, 'params': {**params, 'reference_points': params['reference_points'][order]}})
  close(turned.tasks, jax.tree.map(lambda x: x[:, :, order], run().tasks))


def test_order_of_tokens_does_not_matter(small):
  model, variables, *_ = small
  rng = np.random.default_rng(1)
  memory, place = rng.standard_normal((2, 1, 20, 16)).astype(np.float32)
  queries = rng.standard_normal((1, 6, 16)).astype(np.float32)
  order = rng.permutation(20)
  decode = jax.jit(lambda *args: model.bind(variables).decoder(*args))
  close(decode(queries, memory[:, order], place[:, order]), decode(queries, memory, place))


def test_missing_sensors(small):
  model, variables, bev, images, matrices, run = small
  gone = run(cameras=[[True, False, True], [True, True, True]], lidar=[False, True])
  kept = [0, 2]
  fewer, seen = jax.jit(
    lambda variables, images, *matrices: model.apply(
      variables, None, images, *matrices, SIZE, mutable=['intermediates']
    ),
  )(variables, images[:1, kept], *(m[:1, kept] for m in matrices))
  close(jax.tree.map(lambda x: x[:, :1], gone.tasks), fewer.tasks)
  (weights,) = seen['intermediates']['decoder']['layers']['cross_attention_weights']
  assert weights.shape == (2, 1, 6, 16)
  np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
  nothing = run(cameras=np.zeros((2, 3), bool), lidar=[False, False])
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(nothing))
  # What a hidden sensor holds has no influence.
  close(run(bev=0 * bev, lidar=[False, False]), run(lidar=[False, False]))
  assert differs(run(bev=0 * bev), run())


def test_what_does_not_fit_is_refused(small):
  model, variables, bev, images, matrices, _ = small
  with pytest.raises(ValueError, match='Both sensors are absent'):
    model.apply(variables, None, None)
  with pytest.raises(ValueError, match=r'lidar2img must be \(2, 3, 4, 4\) for 3 cameras, not \(2, 2, 4, 4\)'):
    model.apply(variables, bev, images, matrices[0][:, :2], matrices[1], SIZE)
  with pytest.raises(ValueError, match='image_size'):
    model.apply(variables, bev, images, *matrices)
  with pytest.raises(ValueError, match='image_features are'):
    model.apply(variables, bev, images[..., :3], *matrices, SIZE)


def test_training_draws_dropout_and_moves_statistics(small):
  _, variables, bev, images, matrices, _ = small
  model = Head(**{**SMALL, 'dropout': 0.5, 'layers': 1})
  variables = filled(model, np.random.default_rng(5), bev, None)
  train = jax.jit(
    lambda key: model.apply(variables, bev, None, train=True, rngs={'dropout': key}, mutable=['batch_stats'])
  )
  first, updates = train(jax.random.key(0))
  assert differs(first, train(jax.random.key(1))[0]) and not differs(first, train(jax.random.key(0))[0])
  old, new = (np.asarray(s['batch_stats']['shared_conv']['norm']['mean']) for s in (variables, updates))
  assert np.abs(new - old).min() > 1e-4


def test_first_self_attention_is_constant(small):
  _, variables, *_, run = small

  def changed(layer):
    other = copy.deepcopy(variables)
    other['params']['decoder']['layers']['self_attention']['in_proj_kernel'][layer, :, :32] *= -3.0
    return run(variables=other)

  close(changed(0), run())
  assert differs(changed(1), run())


def _moved(a, b):
  """Queries whose outputs of one name differ."""
  return np.flatnonzero(np.abs(np.asarray(a['dim'] - b['dim'])).max(axis=(0, 1, 3)) > 1e-5).tolist()


def _nudged(noised, slot):
  references = noised.references.copy()
  references[:, slot] = 0.9
  return noised._replace(references=references)


def test_learned_queries_do_not_see_denoising_ones(small, noised):
  model, variables, bev, images, matrices, run = small
  assert noised.used.tolist() == [False, False, True, True, True, True]
  beside = jax.jit(lambda v, noised: model.apply(v, bev, images, *matrices, SIZE, denoising=noised))
  first = beside(variables, noised)
  close(first.tasks, run().tasks)
  # A denoising query sees its own group, and no other; a slot that is not used is seen by none.
  assert _moved(beside(variables, _nudged(noised, 4)).noised[0], first.noised[0]) == [4, 5]
  assert _moved(beside(variables, _nudged(noised, 0)).noised[0], first.noised[0]) == [0]


def test_kernel_of_three_joins_neighbours_at_the_border_only(small, noised):
  _, _, bev, *_ = small
  model = Head(**SMALL, head_kernel=3)
  variables = filled(model, np.random.default_rng(4), bev, None)
  beside = jax.jit(lambda v, noised: model.apply(v, bev, None, denoising=noised))
  first, other = beside(variables, noised), beside(variables, _nudged(noised, 5))
  close(first.states, other.states)
  assert _moved(first.tasks[0], other.tasks[0]) == [0, 1]
  # What does not count is zero to its neighbours, whatever it holds.
  assert _moved(beside(variables, _nudged(noised, 1)).noised[0], first.noised[0]) == []


def test_geometry_is_exact_whatever_the_model_computes_in(small):
  model, variables, _, images, matrices, _ = small
  half = Head(**SMALL, dtype=jnp.bfloat16)
  place = model.apply(variables, (2, 4), matrices[1], SIZE, method='image_positions')
  rounded = half.apply(variables, (2, 4), matrices[1], SIZE, method='image_positions')
  assert rounded.dtype == jnp.float32 and np.array_equal(place, rounded)
  shapes = jax.eval_shape(lambda v: half.apply(v, None, images, *matrices, SIZE), variables)
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(shapes))


def test_blocks_equal_the_whole():
  rng = np.random.default_rng(3)
  q, k, v = (rng.standard_normal((3, n, 3, 4)).astype(np.float32) for n in (5, 17, 17))
  q[0, 0] *= 60.0  # scores of hundreds
  mask = np.ones((3, 17), bool)
  mask[0, 3:9] = False
  mask[1] = False

  def value(block):
    def sum_of(q, k, v):
      out = attention(q, k, v, mask, block=block)
      return jnp.sum(jnp.sin(out)), out

    return jax.value_and_grad(sum_of, argnums=(0, 1, 2), has_aux=True)

  ((_, whole), gradients), blocks = jax.jit(lambda *qkv: (value(None)(*qkv), value(4)(*qkv)))(q, k, v)
  scores = np.einsum('bqhd,bkhd->bhqk', q.astype(np.float64), k) / 2 + np.where(mask, 0, -np.inf)[:, None, None]
  p = np.exp(scores - np.maximum(scores.max(axis=-1, keepdims=True), -1e9))
  want = np.einsum('bhqk,bkhd->bqhd', p / np.maximum(p.sum(axis=-1, keepdims=True), 1e-300), v)
  np.testing.assert_allclose(whole, want, atol=1e-5)
  close(blocks, ((np.sin(want).sum(), want), gradients), 1e-4)
  assert not whole[1].any() and not any(g[1].any() for g in gradients)
  assert all(g[0].any() and g[2].any() for g in gradients)
