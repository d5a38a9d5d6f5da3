"""Matching and set loss against SciPy and NumPy, and their edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxpapers import reft


@pytest.mark.parametrize('objects', [3, 9])
def test_assignment_is_optimal(objects):
  """Also with more objects than queries, where only as many as queries are matched."""
  rng = np.random.default_rng(objects)
  run = jax.jit(reft.match)
  for _ in range(5):
    cost = rng.normal(size=(6, objects)).astype(np.float32)
    valid = rng.uniform(size=objects) < 0.7
    found = run(jnp.asarray(cost), jnp.asarray(valid))
    rows, columns = linear_sum_assignment(cost[:, valid])
    matched = np.asarray(found.matched)
    assert matched.sum() == len(rows) and not matched[~valid].any()
    queries = np.asarray(found.query)[matched]
    assert len(set(queries.tolist())) == len(queries)
    np.testing.assert_allclose(
      cost[queries, np.flatnonzero(matched)].sum(), cost[:, valid][rows, columns].sum(), rtol=1e-5
    )


def batch(objects: int, seed: int = 0):
  keys = jax.random.split(jax.random.key(seed), 4)
  logits = jax.random.normal(keys[0], (2, 2, 5, 4))
  masks = jax.random.normal(keys[1], (2, 2, 5, 8, 8))
  truth = jax.random.uniform(keys[2], (2, 3, 32, 32)) < 0.4
  valid = jnp.arange(3)[None] < jnp.asarray([[objects], [0]])
  targets = reft.Targets(jnp.asarray([[0, 1, 2], [0, 0, 0]]), truth, valid)
  points = jax.vmap(lambda k: reft.draw_points(k, 2, 3, 32))(jax.random.split(keys[3], 2))
  return logits, masks, targets, points


compiled = jax.jit(jax.value_and_grad(lambda a, b, *rest: reft.deep_loss(a, b, *rest)[0], (0, 1)))


def test_an_empty_batch_is_legal():
  logits, masks, targets, points = batch(0)
  loss, grads = compiled(logits, masks, targets, points)
  assert np.isfinite(loss)
  np.testing.assert_array_equal(grads[1], np.zeros_like(masks))
  nll = -jax.nn.log_softmax(logits)[..., -1]
  np.testing.assert_allclose(loss, 2.0 * nll.mean(axis=(1, 2)).sum(), rtol=1e-5)


def test_padding_objects_do_not_count():
  logits, masks, targets, points = batch(2)
  want = compiled(logits, masks, targets, points)
  noise = targets._replace(
    masks=targets.masks.at[0, 2].set(~targets.masks[0, 2]), labels=targets.labels.at[:, 2].set(1)
  )
  jax.tree.map(np.testing.assert_array_equal, compiled(logits, masks, noise, points), want)


def test_a_perfect_prediction_costs_little():
  _, _, targets, points = batch(2)
  targets = targets._replace(masks=jnp.zeros((2, 3, 32, 32), bool).at[0, 0, :16].set(True).at[0, 1, 16:].set(True))
  logits = jnp.full((2, 2, 5, 4), -20.0).at[..., 3].set(20.0)
  logits = (
    logits.at[:, 0, 0].set(jnp.asarray([20.0, -20, -20, -20])).at[:, 0, 3].set(jnp.asarray([-20.0, 20, -20, -20]))
  )
  masks = jnp.full((2, 2, 5, 8, 8), -8.0).at[:, 0, 0, :4].set(8.0).at[:, 0, 3, 4:].set(8.0)
  _, terms, matches = jax.jit(reft.deep_loss)(logits, masks, targets, points)
  np.testing.assert_array_equal(matches.query[:, 0, :2], [[0, 3], [0, 3]])
  _, empty, _ = jax.jit(reft.deep_loss)(logits, jnp.full_like(masks, -8.0), targets, points)
  assert terms.label.sum() < 1e-6
  # Half a pixel around the outline stays uncertain at a quarter of the size.
  assert terms.dice.sum() < 0.5 * empty.dice.sum() and terms.mask.sum() < 0.5 * empty.mask.sum()


def test_scores_boxes_and_order_of_instances():
  logits = jnp.asarray([[4.0, 0.0, 0.0], [0.0, 6.0, 0.0]])
  masks = jnp.full((2, 4, 4), -8.0).at[0, 1:3, 1:4].set(8.0).at[1, :2, :2].set(8.0)
  found = reft.instances(logits, masks, (4, 4), (4, 4), (4, 4), limit=2)
  assert found.classes.tolist() == [1, 0]
  assert found.boxes.tolist() == [[0, 0, 2, 2], [1, 1, 4, 3]]
  assert found.scores[0] > found.scores[1] > 0.9
