"""Cheap scores are what their papers define, and find what they can find."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpapers.r2rise import attribution
from jaxpapers.r2rise.bc import BcOptions
from jaxpapers.r2rise.demos import corrupt, make_demonstrations
from jaxpapers.r2rise.forks import forks_demonstrations
from jaxpapers.r2rise.learners import make_frames
from jaxpapers.r2rise.model import Table
from jaxpapers.r2rise.statistics import truth_scores

NETWORK = Table(3)
RNG = np.random.default_rng(0)
DEMOS = make_demonstrations(RNG.normal(size=(2, 6, 4)).astype(np.float32), RNG.integers(0, 3, (2, 6)))
FRAMES = make_frames(DEMOS)
VALID = jnp.asarray(np.arange(12) != 7, jnp.float32)
PARAMS = NETWORK.init(jax.random.key(1), FRAMES.observations[:1])['params']


def _loss(params, i):
  logits = NETWORK.apply({'params': params}, FRAMES.observations[i][None])[0]
  return jax.nn.logsumexp(logits) - logits[FRAMES.actions[i]]


def _flat(tree):
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


@pytest.fixture(scope='module')
def gradients():
  grads = jax.jit(jax.vmap(jax.grad(_loss), (None, 0)))(PARAMS, jnp.arange(12))
  return np.stack([_flat(jax.tree.map(lambda x, i=i: x[i], grads)) for i in range(12)])


def test_losses_and_gradient_norms_are_those_of_single_frames(gradients):
  losses = jax.vmap(_loss, (None, 0))(PARAMS, jnp.arange(12))
  np.testing.assert_allclose(attribution.frame_losses(NETWORK, PARAMS, FRAMES), losses, atol=1e-5)
  norms = np.linalg.norm(gradients, axis=1)
  np.testing.assert_allclose(attribution.gradient_norms(NETWORK, PARAMS, FRAMES), norms, atol=1e-5)


def test_tracin_is_a_sum_of_inner_products(gradients):
  mean = (np.asarray(VALID)[:, None] * gradients).sum(axis=0) / 11
  twice = jax.tree.map(lambda x: jnp.stack([x, x]), PARAMS)
  got = attribution.tracin(NETWORK, twice, jnp.array([0.5, 1.0]), FRAMES, VALID)
  np.testing.assert_allclose(got, 1.5 * gradients @ mean, atol=1e-5)


def test_the_gradient_through_training_is_that_of_finite_differences():
  options, optimizer, key = BcOptions(steps=3, batch=5, sampling='iid'), optax.sgd(0.5), jax.random.key(2)

  @jax.jit
  def final_losses(weights):
    def one(weights):
      last = attribution.train_weighted(NETWORK, optimizer, options, key, FRAMES, VALID, weights)
      params = jax.tree.map(lambda x: x[-1], last)
      return jnp.sum(attribution.frame_losses(NETWORK, params, FRAMES) * VALID) / VALID.sum()

    return jax.vmap(one)(weights)

  got = jax.jit(lambda: attribution.weight_gradient(NETWORK, optimizer, options, key, FRAMES, VALID))()
  step = 0.02 * np.eye(12)
  np.testing.assert_allclose(got, (final_losses(1 - step) - final_losses(1 + step)) / 0.04, atol=2e-5)
  assert got[7] == 0.0 and np.abs(got).max() > 1e-3


def test_checkpoints_are_those_of_shorter_trainings():
  def train(steps, kept):
    options = BcOptions(steps=steps, sampling='full')
    key = jax.random.key(3)
    run = lambda: attribution.train_weighted(NETWORK, optax.adam(0.1), options, key, FRAMES, VALID, VALID, kept)  # noqa: E731
    return jax.jit(run)()

  kept = train(6, 3)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b[0], atol=1e-6), kept, train(4, 1))


def test_cells_take_the_mean_of_their_valid_frames():
  got = attribution.cell_means(
    jnp.array([1.0, 3.0, 5.0, 7.0]), jnp.array([1.0, 0.0, 1.0, 0.0]), jnp.array([0, 0, 0, 1]), 2
  )
  assert got[0] == 3.0 and np.isnan(got[1])


def test_the_loss_sees_wrong_actions():
  demos, _ = forks_demonstrations(0, episodes=4, forks=4, fillers=2)
  spoilt, clean = corrupt(demos, 0, 0.3, 1, 4)
  options, expand = BcOptions(steps=20, sampling='full'), np.arange(clean.size)
  optimizer, ones = optax.sgd(20.0), np.ones(clean.size, np.float32)
  args = (make_frames(spoilt), ones, expand, clean.shape, jax.random.key(0))
  found = attribution.baseline_scores(Table(4), optimizer, options, *args, optimizer)
  assert set(found) == set(attribution.BASELINES)
  assert all(value.shape == clean.shape and np.isfinite(value).all() for value in found.values())
  assert truth_scores(found['frame_loss'], clean)[0] > 0.9
