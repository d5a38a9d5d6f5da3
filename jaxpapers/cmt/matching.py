"""Assignment of ground truth to queries: all tasks, layers and samples in one call (Hungarian matching of DETR)."""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

CODE_WEIGHTS = (2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2)
"""Of the ten entries of a box code, in cost and loss; the published cost has no velocity."""

_COST_ENTRIES = 8


class Weights(NamedTuple):
  """Of the two terms, in the cost as in the loss."""

  label: float = 2.0
  box: float = 0.25


PUBLISHED = Weights()


def focal_cost(logits: jax.Array, labels: jax.Array, alpha: float = 0.25, gamma: float = 2.0) -> jax.Array:
  """What the focal loss would change by calling a query by a label.

  Args:
    logits: [..., queries, classes].
    labels: [..., boxes] int; any number where the box is padding.
    alpha: weight of positives.
    gamma: of the focal loss.

  Returns:
    [..., boxes, queries].
  """
  p = jax.nn.sigmoid(logits)
  positive = alpha * (1 - p) ** gamma * -jnp.log(p + 1e-12)
  negative = (1 - alpha) * p**gamma * -jnp.log(1 - p + 1e-12)
  return jnp.take_along_axis(jnp.swapaxes(positive - negative, -1, -2), labels[..., None], axis=-2, mode='clip')


def matching_cost(
  logits: jax.Array,
  codes: jax.Array,
  labels: jax.Array,
  targets: jax.Array,
  weights: Weights = PUBLISHED,
  code_weights: Sequence[float] = CODE_WEIGHTS,
) -> jax.Array:
  """Cost of giving a box to a query.

  Source: the paper's section on the decoder and loss; the authors' Hungarian assigner.

  Args:
    logits: [..., queries, classes].
    codes: [..., queries, 10] of `coder.box_code`.
    labels: [..., boxes] int in the classes of `logits`.
    targets: [..., boxes, 10] of `coder.encode_boxes`.
    weights: of the two terms.
    code_weights: of the entries of the code; those of the velocity play no part.

  Returns:
    [..., boxes, queries] float32.
  """
  entry = np.asarray(code_weights[:_COST_ENTRIES], np.float32)
  difference = codes[..., None, :, :_COST_ENTRIES] - targets[..., :, None, :_COST_ENTRIES]
  distance = jnp.sum(jnp.abs(difference * entry), axis=-1)
  return weights.label * focal_cost(logits, labels) + weights.box * distance


def assign(cost: jax.Array, valid: jax.Array) -> jax.Array:
  """The query of every box, of least total cost; no gradient flows.

  Source: bipartite matching (DETR, Carion et al., ECCV 2020), as in the paper's loss.

  Args:
    cost: [..., boxes, queries].
    valid: [..., boxes] bool, False for padding, which may take any query left and means nothing.

  Returns:
    [..., boxes] int32, no query twice.

  Raises:
    ValueError: if there are more boxes than queries.
  """
  boxes, queries = cost.shape[-2:]
  if boxes > queries:
    raise ValueError(f'{boxes} boxes (padding included) cannot be matched with {queries} queries.')
  chex.assert_shape(valid, cost.shape[:-1])
  # A NaN would keep the search from ending.
  cost = jnp.nan_to_num(jax.lax.stop_gradient(cost), nan=1e4, posinf=1e4, neginf=-1e4)
  flat = jnp.where(valid[..., None], cost, 0.0).reshape(-1, boxes, queries)
  rows, columns = jax.vmap(optax.assignment.hungarian_algorithm)(flat)
  lane = jnp.arange(flat.shape[0])[:, None]
  chosen = jnp.zeros((flat.shape[0], boxes), jnp.int32).at[lane, rows].set(columns.astype(jnp.int32))
  return chosen.reshape(cost.shape[:-1])
