"""The supervised step against its definition."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpapers import engine


class Linear(nn.Module):
  @nn.compact
  def __call__(self, x, train=False):
    return nn.Dense(1)(x)[:, 0]


def squared(outputs, batch):
  return jnp.mean((outputs - batch['label']) ** 2), {'bias': outputs.mean()}


def batch(rows=8):
  rng = np.random.default_rng(0)
  return {'image': rng.normal(size=(rows, 3)).astype(np.float32), 'label': rng.normal(size=rows).astype(np.float32)}


def one_step(**options):
  parts = engine.supervised(Linear(), squared, optax.sgd(0.1), **options)
  state = parts.init(jax.random.key(0), batch(), {})
  return state, *parts.step(state, batch(), jax.random.key(1))


def test_step_is_gradient_descent():
  before, after, metrics = one_step()
  kernel, bias = (np.asarray(before.params['Dense_0'][name], np.float64) for name in ('kernel', 'bias'))
  data = batch()
  error = data['image'] @ kernel[:, 0] + bias - data['label']
  gradient = 2 * data['image'].T @ error / 8
  np.testing.assert_allclose(after.params['Dense_0']['kernel'][:, 0], kernel[:, 0] - 0.1 * gradient, rtol=1e-5)
  norm = np.sqrt((gradient**2).sum() + (2 * error.mean()) ** 2)
  assert float(metrics['grad_norm']) == pytest.approx(norm, rel=1e-5)
  assert float(metrics['loss']) == pytest.approx((error**2).mean(), rel=1e-5)
  assert int(after.step) == 1


def test_accumulation_equals_the_whole_batch():
  _, whole, metrics = one_step()
  _, parts, accumulated = one_step(accumulate=4)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), whole.params, parts.params)
  assert float(accumulated['loss']) == pytest.approx(float(metrics['loss']), rel=1e-5)


def test_clipping_scales_the_step_and_reports_the_norm_before():
  before, free, metrics = one_step()
  _, clipped, same = one_step(clip_norm=0.1)
  assert float(same['grad_norm']) == float(metrics['grad_norm']) > 0.1
  moved = optax.tree.norm(jax.tree.map(jnp.subtract, clipped.params, before.params))
  assert float(moved) == pytest.approx(0.1 * 0.1, rel=1e-4)


def test_average_follows_with_its_decay():
  before, after, _ = one_step(ema_decay=0.9)
  want = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, before.params, after.params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), want, after.variables(ema=True)['params'])
  with pytest.raises(ValueError, match='moving average'):
    one_step()[1].variables(ema=True)


def test_frozen_leaves_do_not_move():
  frozen = lambda params: jax.tree_util.tree_map_with_path(lambda path, _: 'bias' in str(path), params)  # noqa: E731
  before, after, _ = one_step(frozen=frozen)
  np.testing.assert_array_equal(before.params['Dense_0']['bias'], after.params['Dense_0']['bias'])
  assert not np.array_equal(before.params['Dense_0']['kernel'], after.params['Dense_0']['kernel'])


def test_augmentation_runs_inside_the_step():
  _, after, metrics = one_step(augment=lambda b, key: {**b, 'label': b['label'] * 0})
  _, _, plain = one_step()
  assert float(metrics['loss']) != float(plain['loss'])


def test_start_replaces_and_merge_names_what_does_not_fit():
  told = []
  loaded = {'params': {'Dense_0': {'kernel': np.full((3, 1), 2.0, np.float32)}}}

  def start(initial):
    return engine.merge_variables(initial, loaded, allow_missing=['bias$'], report=told.append)

  before, _, _ = one_step(start=start)
  np.testing.assert_array_equal(before.params['Dense_0']['kernel'], 2.0)
  assert 'params/Dense_0/bias' in told[0]
  with pytest.raises(engine.UserError, match=r'params/Dense_0/bias is missing'):
    engine.merge_variables({'params': before.params}, loaded)
  wrong = {'params': {'Dense_0': {'kernel': np.ones((4, 1)), 'bias': np.ones(1), 'extra': np.ones(2)}}}
  with pytest.raises(
    engine.UserError, match=r'kernel has shape \(4, 1\), not \(3, 1\); params/Dense_0/extra is not in'
  ):
    engine.merge_variables({'params': before.params}, wrong)
