import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpapers.ops import detection_losses as losses


def test_sigmoid_focal_equals_float64():
  rng = np.random.default_rng(0)
  x, t = rng.normal(0, 3, 50), rng.integers(0, 2, 50)
  p = 1 / (1 + np.exp(-x))
  want = np.where(t == 1, -0.25 * (1 - p) ** 2 * np.log(p), -0.75 * p**2 * np.log(1 - p))
  np.testing.assert_allclose(losses.sigmoid_focal(jnp.float32(x), jnp.asarray(t)), want, rtol=1e-4, atol=1e-7)


def test_sigmoid_focal_is_finite_far_out():
  x = jnp.array([-200.0, 200.0, -200.0, 200.0])
  t = jnp.array([0, 1, 1, 0])
  value, gradient = jax.value_and_grad(lambda x: losses.sigmoid_focal(x, t).sum())(x)
  assert np.isfinite(value) and np.all(np.isfinite(gradient))
  assert value == pytest.approx(0.25 * 200 + 0.75 * 200)


def test_smooth_l1():
  d = np.linspace(-3, 3, 41).astype(np.float32)
  np.testing.assert_allclose(losses.smooth_l1(d, 0 * d), optax.losses.huber_loss(d, 0 * d, delta=1.0), rtol=1e-6)
  np.testing.assert_allclose(losses.smooth_l1(d, 0 * d, beta=0), np.abs(d))
  np.testing.assert_allclose(losses.smooth_l1(jnp.float32(0.25), jnp.float32(0), beta=0.5), 0.0625)


def hard_reference(logits, labels, weights, background, ratio):
  logits = logits.astype(np.float64)
  log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  loss = -log_p[np.arange(len(labels)), labels] * weights
  positive = labels < background
  negatives = np.sort(loss[~positive])[::-1][: ratio * positive.sum()]
  return loss[positive].sum() + negatives.sum()


@pytest.mark.parametrize('positives', [0, 1, 4, 30])
def test_hard_negative_cross_entropy(positives):
  rng = np.random.default_rng(positives)
  logits = rng.normal(0, 2, (40, 4)).astype(np.float32)
  labels = np.full(40, 3)
  labels[rng.permutation(40)[:positives]] = rng.integers(0, 3, positives)
  weights = (rng.random(40) < 0.9).astype(np.float32)
  function = jax.jit(lambda x: losses.hard_negative_cross_entropy(x, labels, weights, 3))
  value, gradient = jax.value_and_grad(function)(logits)
  assert value == pytest.approx(hard_reference(logits, labels, weights, 3, 3), rel=1e-5)
  assert np.all(np.isfinite(gradient))
  if not positives:
    assert value == 0 and not gradient.any()
  # At most 3 negatives per positive have a gradient.
  assert (np.abs(gradient).sum(axis=1) > 0).sum() <= 4 * positives
