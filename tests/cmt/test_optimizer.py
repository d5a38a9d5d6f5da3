import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.cmt import initial, optimizer
from jaxpapers.cmt.encoding import geometric_periods
from jaxpapers.cmt.head import Head


def test_groups_decay_and_moments_follow_adamw():
  rng = np.random.default_rng(0)
  params = {
    'camera': {'backbone': {'norm': {'scale': np.ones(3)}}, 'neck': {'conv': {'bias': np.ones(3)}}},
    'lidar': {'neck': {'bias': np.ones(3)}},
  }
  params = jax.tree.map(lambda x: x * rng.normal(size=3), params)
  steps, clip = 10, 2.0
  rate, beta1 = optimizer.published_rate(1e-2, 6, steps), optimizer.published_beta1(steps)
  transform = optimizer.cmt_optimizer(rate, beta1, clip=clip)
  state = transform.init(params)
  update = jax.jit(transform.update)
  factor = {'backbone': (0.01, 5.0), 'neck': (0.1, 1.0), 'lidar': (1.0, 1.0)}
  ours = jax.tree.map(jnp.asarray, params)
  theirs = {name: np.array(x) for name, x in zip(('backbone', 'neck', 'lidar'), jax.tree.leaves(params), strict=True)}
  m, v = ({name: np.zeros(3) for name in theirs} for _ in range(2))
  for step in range(6):
    gradients = {name: rng.normal(size=3) * 3 for name in theirs}
    tree = jax.tree.unflatten(jax.tree.structure(params), list(gradients.values()))
    updates, state = update(tree, state, ours)
    ours = jax.tree.map(jnp.add, ours, updates)
    norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
    b1, lr = float(beta1(step)), float(rate(step))
    for name, g in gradients.items():
      g = g * min(1.0, clip / norm)
      m[name] = b1 * m[name] + (1 - b1) * g
      v[name] = 0.999 * v[name] + 0.001 * g**2
      adam = m[name] / (1 - b1 ** (step + 1)) / (np.sqrt(v[name] / (1 - 0.999 ** (step + 1))) + 1e-8)
      scale, decay = factor[name]
      theirs[name] = theirs[name] - lr * scale * (adam + 0.01 * decay * theirs[name])
  for got, want in zip(jax.tree.leaves(ours), theirs.values(), strict=True):
    np.testing.assert_allclose(got, want, rtol=2e-5)


def test_cosines_start_turn_and_end_where_they_should():
  schedule = optimizer.two_cosines(0.0, 1.0, 0.25, 40, rising=0.3)
  np.testing.assert_allclose(schedule(np.array([0, 6, 12, 26, 40, 99])), [0, 0.5, 1.0, 0.625, 0.25, 0.25], atol=1e-6)
  assert np.isfinite(optimizer.two_cosines(0.0, 1.0, 0.0, 1)(0))


@pytest.fixture(scope='module')
def start():
  model = Head(num_queries=4, width=16, layers=2, heads=4, hidden=8, tasks=(2,), depths=3, frequencies=(-1.0, 3.0))
  arrays = np.zeros((1, 2, 2, 5)), np.zeros((1, 1, 2, 2, 16)), np.zeros((1, 1, 4, 4)), np.zeros((1, 1, 4, 4))
  return jax.jit(lambda key: model.init(key, *arrays, (8, 8)))(jax.random.key(0, impl='rbg'))['params']


def test_published_start(start):
  layers = start['decoder']['layers']
  kernel = layers['cross_attention']['in_proj_kernel']
  bound = np.sqrt(6 / (4 * 16))  # of queries, keys and values together, as packed
  assert kernel.shape == (2, 16, 48) and 0.9 * bound < np.abs(kernel).max() <= bound
  assert not np.array_equal(kernel[0], kernel[1])
  np.testing.assert_allclose(start['task_heads']['task0_cls_logits']['bias_1'], -2.19)
  assert np.abs(start['bev_embedding']['layer0']['bias']).max() <= 1 / np.sqrt(32)
  assert np.abs(layers['ffn_0']['kernel']).max() <= np.sqrt(6 / (16 + 8))


def test_starts_for_small_models(start):
  scaled = initial.scale_embeddings(start, jax.random.key(1))
  for module, factors in (('bev_embedding', (4.0, 5.2)), ('rv_embedding', (12.0, 2.5))):
    for layer, factor in enumerate(factors):
      old, new = (p[module][f'layer{layer}'] for p in (start, scaled))
      np.testing.assert_allclose(new['kernel'], old['kernel'] * factor)
      changed = module == 'rv_embedding' and layer == 0
      assert np.array_equal(new['bias'], old['bias']) != changed
  assert 5 < np.abs(scaled['rv_embedding']['layer0']['bias']).max() <= 6

  done = initial.split_subspaces(initial.tie_query_key(scaled, 1.4))
  old, new = (p['decoder']['layers']['cross_attention']['in_proj_kernel'] for p in (start, done))
  q, k, v = np.split(np.asarray(new), 3, axis=-1)
  assert np.array_equal(q, k) and np.array_equal(v, old[..., 32:])
  np.testing.assert_allclose(q[:, :8, :8], 1.4 * old[:, :8, :8])
  assert not q[:, :8, 8:].any() and not q[:, 8:, :8].any() and q[:, 8:, 8:].all()
  bev, rays = done['bev_embedding']['layer1'], done['rv_embedding']['layer1']
  assert not bev['kernel'][:, 8:].any() and not bev['bias'][8:].any() and bev['kernel'][:, :8].all()
  assert not rays['kernel'][:, :8].any() and not rays['bias'][:8].any() and rays['kernel'][:, 8:].all()
  # Without cameras there is no ray embedding to change.
  initial.split_subspaces({name: value for name, value in start.items() if name != 'rv_embedding'})


def test_geometric_periods():
  np.testing.assert_allclose(geometric_periods(10, -1.0, 3.0), [2, 1, 0.5, 0.25, 0.125])
