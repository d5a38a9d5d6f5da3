"""Masks to returns: retrains a learner per mask and plays it; and the curves that check a map by retraining."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.r2rise.environments import Environment
from jaxpapers.r2rise.importance import rank_cells
from jaxpapers.r2rise.learners import Frames, Learner, train_masked
from jaxpapers.r2rise.rollouts import evaluate

ORDERS = ('top', 'bottom', 'random')


class Returns(NamedTuple):
  """What retraining gave.

  Attributes:
    returns: [learners, episodes] float32.
    kept: [learners] float32, summed weight of the kept frames; 0 means that the policy acted by chance.
  """

  returns: jax.Array
  kept: jax.Array


def retrain(
  learner: Learner,
  environment: Environment,
  frames: Frames,
  keys: jax.Array,
  weights: jax.Array,
  *,
  episodes: int,
  epsilon: float,
  batching: str = 'vmap',
  common_key: jax.Array | None = None,
) -> Returns:
  """J(L(D, m)) for every mask: one pure program that trains and plays all of them.

  Args:
    learner: L.
    environment: the game; its actions are those of the frames.
    frames: D.
    keys: [learners] keys: everything about a learner depends on its own key and weights.
    weights: [learners, n] float32, the masks over frames.
    episodes: played per learner.
    epsilon: share of uniformly random actions. A learner without any kept frame plays by chance altogether.
    batching: see `train_masked`.
    common_key: plays all learners with the same random numbers (lower variance of differences, correlated errors).

  Raises:
    ValueError: as `train_masked`; or if an environment outside of JAX would be vmapped.
  """
  pairs = jax.vmap(jax.random.split)(keys)
  params = train_masked(learner, pairs[:, 0], frames, weights, batching)
  kept = weights.sum(axis=1)
  play_keys = pairs[:, 1] if common_key is None else jnp.broadcast_to(common_key, keys.shape)
  chance = jnp.where(kept > 0, epsilon, 1.0)
  return Returns(evaluate(learner, environment, play_keys, params, episodes, chance), kept)


def keep_share(rank: jax.Array, fraction: jax.Array) -> jax.Array:
  """The first round(fraction F) cells of an order: rank [n, F] (0 first), fraction [n] -> [n, F] bool."""
  return rank < jnp.round(fraction[:, None] * rank.shape[-1])


def curve_cells(
  key: jax.Array,
  value: jax.Array,
  orders: Sequence[str],
  point: jax.Array,
  fraction: jax.Array,
  ids: jax.Array,
  truth: np.ndarray | None = None,
) -> jax.Array:
  """Cells to keep for points of a retraining curve.

  Args:
    key: of the random orders.
    value: [n, F] maps; NaN counts as least important.
    orders: [P] names out of `ORDERS`, or 'all' (every cell) or 'truth' (the planted ones).
    point: [n] int32, index into `orders`.
    fraction: [n] share of cells to keep, for the names in `ORDERS`.
    ids: [n] int32: every number has a random order of its own.
    truth: [F] bool, for 'truth'.

  Returns:
    [n, F] float32, 1 where kept.

  Raises:
    ValueError: for an unknown order, or 'truth' without one.
  """
  known = (*ORDERS, 'all', 'truth')
  unknown = [order for order in orders if order not in known]
  if unknown:
    raise ValueError(f'order={unknown[0]!r} is not known; known: {", ".join(known)}.')
  if truth is None and 'truth' in orders:
    raise ValueError("The order 'truth' needs planted cells.")
  cells = value.shape[-1]
  order = jnp.asarray([known.index(name) for name in orders])[point]

  def one(value, order, number):
    by_value = jnp.argsort(rank_cells(value))
    random = jax.random.permutation(jax.random.fold_in(key, number), cells)
    return jnp.select([order == 0, order == 1], [by_value, cells - 1 - by_value], random)

  kept = keep_share(jax.vmap(one)(value, order, ids), fraction)
  planted = jnp.zeros(cells, bool) if truth is None else jnp.asarray(truth)
  order = order[:, None]
  return (jnp.where(order == 4, planted, kept) | (order == 3)).astype(jnp.float32)


class CurvePoint(NamedTuple):
  """A point of a retraining curve.

  Attributes:
    order: one of ORDERS, or 'all' or 'truth'.
    fraction: share of cells kept.
    mean: of the learners' mean returns.
    error: standard error over learners.
    learners: their number.
  """

  order: str
  fraction: float
  mean: float
  error: float
  learners: int


def curve_points(orders: Sequence[str], fractions: Sequence[float], returns: np.ndarray) -> list[CurvePoint]:
  """Points from mean returns [points, learners], in the order of `orders` and `fractions` [points]."""
  learners = returns.shape[1]
  error = returns.std(axis=1, ddof=1) / np.sqrt(learners) if learners > 1 else np.full(len(returns), np.nan)
  rows = zip(orders, fractions, returns.mean(axis=1), error, strict=True)
  return [CurvePoint(o, float(f), float(m), float(e), learners) for o, f, m, e in rows]


def area_between(points: Sequence[CurvePoint]) -> float:
  """Area between the top and the bottom curve, by trapezoids over the fractions."""
  curves = {order: sorted((p.fraction, p.mean) for p in points if p.order == order) for order in ('top', 'bottom')}
  top, bottom = (np.asarray(curves[order]) for order in ('top', 'bottom'))
  return float(np.trapezoid(top[:, 1] - bottom[:, 1], top[:, 0]))


def retrain_curve(
  learner: Learner,
  environment: Environment,
  frames: Frames,
  expand: np.ndarray,
  value: np.ndarray,
  fractions: Sequence[float],
  key: jax.Array,
  *,
  learners: int = 20,
  episodes: int = 16,
  epsilon: float = 0.0,
  batching: str = 'vmap',
) -> list[CurvePoint]:
  """Returns after keeping the top, the bottom or random cells, with fresh learners.

  Source: the paper's test of a map by retraining on its top and bottom frames.

  Args:
    learner: L; its keys here must not be those of the map.
    environment: the game.
    frames: D.
    expand: [n] int32, the cell of every frame.
    value: [F] or [E, cells] map.
    fractions: shares of cells to keep.
    key: of everything.
    learners: per point, at least 2; every one has its own random order.
    episodes: per learner.
    epsilon: share of random actions.
    batching: see `train_masked`.
  """
  grid = [(order, f) for order in ORDERS for f in fractions]
  orders = [order for order, _ in grid]
  point = np.repeat(np.arange(len(grid)), learners)
  fraction = np.asarray([f for _, f in grid], np.float32)[point]
  ids = jnp.arange(len(point))
  mask_key, run_key = jax.random.split(key)

  @jax.jit
  def run(value):
    maps = jnp.broadcast_to(value, (len(ids), len(value)))
    weights = curve_cells(mask_key, maps, orders, jnp.asarray(point), jnp.asarray(fraction), ids)[:, expand]
    keys = jax.vmap(lambda i: jax.random.fold_in(run_key, i))(ids)
    options = dict(episodes=episodes, epsilon=epsilon, batching=batching)
    return retrain(learner, environment, frames, keys, weights, **options).returns.mean(axis=1)

  means = np.asarray(run(jnp.asarray(value).reshape(-1))).reshape(len(grid), learners)
  return curve_points(orders, [f for _, f in grid], means)
