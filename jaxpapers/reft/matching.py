"""Optimal assignment of queries to objects on sampled points."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

_NEVER = 1e6
"""Cost of padding: any constant above the real costs leaves the optimum of the real objects alone."""


class Weights(NamedTuple):
  """Of class, mask and dice terms, in the matching cost as in the loss."""

  label: float = 2.0
  mask: float = 5.0
  dice: float = 5.0


PUBLISHED = Weights()


class Costs(NamedTuple):
  """Parts of the matching cost of one image, each [queries, objects]; `total` is their weighted sum."""

  total: jax.Array
  mask: jax.Array
  dice: jax.Array


def matching_costs(
  logits: jax.Array, masks: jax.Array, labels: jax.Array, targets: jax.Array, weights: Weights = PUBLISHED
) -> Costs:
  """Cost of every query for every object of one image. Source: Mask2Former (arXiv 2112.01527) and its code.

  Args:
    logits: [queries, classes + 1].
    masks: [queries, points] mask logits at the points.
    labels: [objects] int.
    targets: [objects, points] of the objects' masks at the same points, 0 to 1.
    weights: of the three terms.
  """
  chex.assert_equal(masks.shape[-1], targets.shape[-1])
  points = masks.shape[-1]
  likely = jax.nn.softmax(logits, axis=-1)[:, labels]
  # BCE = softplus(-x) t + softplus(x) (1 - t): two matrix products for all pairs.
  cross = (jax.nn.softplus(-masks) @ targets.T + jax.nn.softplus(masks) @ (1.0 - targets).T) / points
  s = jax.nn.sigmoid(masks)
  dice = 1.0 - (2.0 * s @ targets.T + 1.0) / (s.sum(axis=1)[:, None] + targets.sum(axis=1)[None] + 1.0)
  return Costs(-weights.label * likely + weights.mask * cross + weights.dice * dice, cross, dice)


class Matches(NamedTuple):
  """Which query each object got.

  Attributes:
    query: [objects] int32; meaningless where not `matched`.
    matched: [objects] bool; False for padding, and for objects beyond the number of queries.
  """

  query: jax.Array
  matched: jax.Array


def match(cost: jax.Array, valid: jax.Array) -> Matches:
  """The assignment of least total cost; runs inside jit and under vmap.

  Source: DETR (Carion et al., ECCV 2020), as in Mask2Former.

  Args:
    cost: [queries, objects].
    valid: [objects] bool; the others are padding.
  """
  chex.assert_shape(valid, (cost.shape[1],))
  cost = jax.lax.stop_gradient(jnp.where(valid, cost, _NEVER))
  rows, columns = optax.assignment.hungarian_algorithm(cost)
  objects = cost.shape[1]
  query = jnp.zeros(objects, jnp.int32).at[columns].set(rows.astype(jnp.int32))
  matched = jnp.zeros(objects, bool).at[columns].set(True)
  return Matches(query, matched & valid)
