import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from jax.test_util import check_grads

from jaxpapers.ops.classification import cross_entropy, top_k_correct

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(7, 5)) * 3
LABELS = RNG.integers(5, size=7)


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_cross_entropy_against_float64(smoothing):
  log_p = scipy.special.log_softmax(LOGITS, -1)
  expected = -(1 - smoothing) * log_p[np.arange(7), LABELS] - smoothing * log_p.mean(-1)
  one_hot = np.eye(5)[LABELS]
  for labels in (jnp.asarray(LABELS), jnp.asarray(one_hot, jnp.float32)):
    np.testing.assert_allclose(cross_entropy(jnp.asarray(LOGITS), labels, smoothing), expected, rtol=1e-5)
  soft = optax.smooth_labels(jnp.asarray(one_hot, jnp.float32), smoothing)
  np.testing.assert_allclose(cross_entropy(jnp.asarray(LOGITS), soft), expected, rtol=1e-5)


def test_cross_entropy_gradient_and_half_precision():
  check_grads(lambda x: cross_entropy(x, jnp.asarray(LABELS), 0.1), (jnp.asarray(LOGITS),), 1, ['rev'], rtol=2e-2)
  assert cross_entropy(jnp.asarray(LOGITS, jnp.bfloat16), jnp.asarray(LABELS)).dtype == jnp.float32


def test_top_k_against_sorting():
  logits = RNG.integers(4, size=(200, 6)).astype(np.float32)  # many ties
  labels = RNG.integers(6, size=200)
  valid = RNG.random(200) < 0.7
  order = np.argsort(-logits, axis=1, kind='stable')
  for k in (1, 2, 5, 6):
    hits = (order[:, :k] == labels[:, None]).any(1)
    assert float(top_k_correct(logits, jnp.asarray(labels), k)) == hits.sum()
    assert float(jax.jit(top_k_correct, static_argnums=2)(logits, labels, k, valid)) == (hits & valid).sum()


def test_nan_logits_are_wrong():
  logits = jnp.array([[jnp.nan, 0.0], [1.0, 0.0]])
  assert float(top_k_correct(logits, jnp.array([0, 0]), 2)) == 1
