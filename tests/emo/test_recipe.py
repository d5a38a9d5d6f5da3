import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.emo import recipe


def test_schedule_rises_linearly_and_follows_an_unshifted_cosine():
  schedule = recipe.warmup_cosine(6e-3, 1000, 100)
  assert float(schedule(0)) == pytest.approx(1e-6)
  assert float(schedule(50)) == pytest.approx(1e-6 + 0.5 * (6e-3 - 1e-6))
  assert float(schedule(100)) == pytest.approx(1e-6 + 0.5 * (6e-3 - 1e-6) * (1 + np.cos(0.1 * np.pi)))
  assert float(schedule(1000)) == pytest.approx(1e-6) == float(schedule(5000))


def test_noise_is_bounded_reproducible_and_only_where_asked():
  noisy = recipe.noisy(lambda step: 1.0, jax.random.key(0), 100, 900)
  rates = np.asarray(jax.vmap(noisy)(jnp.arange(1000)))
  assert (rates[:100] == 1).all() and (rates[900:] == 1).all()
  assert np.abs(rates[100:900] - 1).max() < 0.67 and rates[100:900].std() > 0.3
  np.testing.assert_array_equal(rates, jax.vmap(noisy)(jnp.arange(1000)))


def test_only_matrices_and_kernels_decay():
  params = {'kernel': jnp.ones((2, 3)), 'bias': jnp.ones(3), 'depthwise': jnp.ones((3, 3, 2))}
  assert recipe.decays(params) == {'kernel': True, 'bias': False, 'depthwise': True}
  optimizer = recipe.adamw(0.1, weight_decay=0.5)
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates, _ = optimizer.update(zeros, optimizer.init(params), params)
  assert float(updates['bias'].max()) == 0 and np.allclose(updates['kernel'], -0.05)


def test_smoothed_loss_equals_its_definition():
  logits = np.random.default_rng(0).normal(size=(4, 5))
  labels = np.array([0, 4, 2, 2])
  logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  want = -0.9 * logp[np.arange(4), labels] - 0.1 * logp.mean(-1)
  value, metrics = recipe.classification_loss()(jnp.asarray(logits), {'label': jnp.asarray(labels)})
  assert float(value) == pytest.approx(want.mean(), rel=1e-5)
  assert float(metrics['top1']) == (logits.argmax(-1) == labels).mean()
