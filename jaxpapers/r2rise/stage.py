"""One learner's map and retraining curve as the pure functions of a stage: a step retrains one batch of masks.

The first steps train on random masks and add to the map's sums; the others train on the cells that the finished map
ranks. Both are the same program, so it is compiled once. Everything about a retraining depends on its number alone: the
result is the same in any chunks, on any number of devices, and after any interruption.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxpapers.r2rise.environments import Environment
from jaxpapers.r2rise.importance import (
  Statistics,
  finalise,
  importance_init,
  importance_merge,
  importance_update,
)
from jaxpapers.r2rise.learners import Frames, Learner
from jaxpapers.r2rise.masks import cells_of, expand_cells, sample_cells, smooth_masks
from jaxpapers.r2rise.retrain import curve_cells, retrain

_MASKS, _LEARNERS, _ORDERS, _CURVE = range(4)  # branches of the key: no learner of the curve made the map
_TOP_OF = 'top_of_'


class MaskPlan(NamedTuple):
  """How masks are drawn.

  Attributes:
    episodes, length: E trajectories of T frames.
    block: frames that share a cell.
    keep: probability that a cell is kept.
    antithetic: masks 2j and 2j + 1 are complements.
    smooth: soft masks, linear between cells and shifted at random; then every frame is a cell of the map.
  """

  episodes: int
  length: int
  block: int
  keep: float = 0.5
  antithetic: bool = False
  smooth: bool = False

  def check(self) -> 'MaskPlan':
    """Itself.

    Raises:
      ValueError: for a block, keep probability or pair of settings that cannot be.
    """
    cells_of(self.length, self.block)
    if self.smooth and self.antithetic:
      raise ValueError('antithetic=True needs hard masks: smooth must be False.')
    jax.eval_shape(lambda: self.sample(jax.random.key(0), jnp.zeros(1, jnp.int32)))
    return self

  @property
  def shape(self) -> tuple[int, int]:
    """[E, C] of the map: C cells along time, or T frames for smooth masks."""
    return self.episodes, self.length if self.smooth else cells_of(self.length, self.block)

  def expand(self) -> np.ndarray:
    """[E * T] int32, the cell of every frame."""
    steps = np.arange(self.length) // (1 if self.smooth else self.block)
    return (np.arange(self.episodes)[:, None] * self.shape[1] + steps).reshape(-1).astype(np.int32)

  def sample(self, key: jax.Array, ids: jax.Array) -> jax.Array:
    """Masks [n, F] float32 in [0, 1] of global numbers `ids` [n]."""
    if self.smooth:
      masks = smooth_masks(key, ids, self.episodes, self.length, self.block, self.keep)
    else:
      masks = sample_cells(key, ids, *self.shape, self.keep, self.antithetic)
    return masks.reshape(ids.shape[0], -1).astype(jnp.float32)

  def sample_all(self, key: jax.Array, count: int) -> jax.Array:
    """Masks 0 to count - 1 as `map_and_curve` draws them from its key: [count, E, C] float32."""
    drawn = self.sample(jax.random.fold_in(key, _MASKS), jnp.arange(count, dtype=jnp.int32))
    return drawn.reshape(count, *self.shape)

  def truth(self, cells: np.ndarray) -> np.ndarray:
    """Planted importance [E, cells] bool in the shape of the map."""
    return np.asarray(expand_cells(jnp.asarray(cells), self.block, self.length)) if self.smooth else cells


class Plan(NamedTuple):
  """What a stage does.

  Attributes:
    masks: how they are drawn.
    count: N masks of a map, a multiple of `chunk`.
    seeds: S independent maps, each with a curve of its own.
    chunk: retrainings of one step.
    points: ((order, fraction), ...) of the curve: orders as `curve_cells` knows them, or 'top_of_NAME', the top cells
      of the maps of stage NAME; () for no curve.
    learners: L per point.
    estimator: of the map whose order the curve follows.
    truth: [F] bool for points of order 'truth', or None.
    target: a map stops at this split-half reliability; 0 never.
    min_masks: but not before so many masks.
  """

  masks: MaskPlan
  count: int
  seeds: int
  chunk: int
  points: tuple[tuple[str, float], ...]
  learners: int
  estimator: str = 'contrast'
  truth: np.ndarray | None = None
  target: float = 0.0
  min_masks: int = 64

  @property
  def map_steps(self) -> int:
    """Steps that train on random masks."""
    return self.seeds * self.count // self.chunk

  @property
  def curve_size(self) -> int:
    """Retrainings of all curves."""
    return self.seeds * len(self.points) * self.learners

  @property
  def steps(self) -> int:
    """All steps of the stage."""
    return self.map_steps + -(-self.curve_size // self.chunk)


class MapState(NamedTuple):
  """State of a stage.

  Attributes:
    halves: `Statistics` with leaves [S, 2, ...]: even and odd masks (pairs, for antithetic ones) of every seed.
    returns, kept: [S * N] mean return and kept weight of every mask; NaN until it was trained.
    curve: [S * P * L] mean returns.
    stopped: [S] int32 masks after which a map was reliable enough, 0 where it is not.
    others: [M, S, F] maps of earlier stages that the curve follows, or None.
  """

  halves: Statistics
  returns: jax.Array
  kept: jax.Array
  curve: jax.Array
  stopped: jax.Array
  others: jax.Array | None


class Numbers:
  """Batch `step` holds the numbers of its retrainings, and what a log already knows of them; every host its part."""

  def __init__(self, plan: Plan, known: Mapping[int, tuple[float, float]] | None = None, hosts: int = 1, host: int = 0):
    """Numbers for `plan`; `known` is {mask: (return, kept)}."""
    if plan.chunk % hosts:
      raise ValueError(f'A chunk of {plan.chunk} cannot be shared by {hosts} hosts.')
    self._plan, self._known = plan, known or {}
    self._part = slice(host * plan.chunk // hosts, (host + 1) * plan.chunk // hosts)

  def __call__(self, step: int) -> dict[str, np.ndarray]:
    """{'id' int32, 'curve' bool, 'known' bool, 'return' float32, 'kept' float32}, each [chunk / hosts]."""
    plan = self._plan
    curve = step >= plan.map_steps
    start = (step - plan.map_steps if curve else step) * plan.chunk
    ids = np.arange(start, start + plan.chunk) % (plan.curve_size if curve else plan.seeds * plan.count)
    # A chunk is taken from the log as a whole or not at all, so that every host decides alike.
    known = not curve and all(int(i) in self._known for i in ids)
    rows = np.asarray([self._known[int(i)] if known else (0.0, 0.0) for i in ids], np.float32)
    batch = {
      'id': ids.astype(np.int32),
      'curve': np.full(len(ids), curve),
      'known': np.full(len(ids), known),
      'return': rows[:, 0],
      'kept': rows[:, 1],
    }
    return {name: value[self._part] for name, value in batch.items()}


class Functions(NamedTuple):
  """`init` and `step` of a Stage, and `masks`: () -> [S, N, E, C] float32 of its plan."""

  init: Callable[..., MapState]
  step: Callable[..., tuple[MapState, dict[str, jax.Array]]]
  masks: Callable[[], np.ndarray]


def map_and_curve(
  learner: Learner,
  environment: Environment,
  frames: Frames,
  valid: np.ndarray,
  plan: Plan,
  key: Callable[[], jax.Array],
  *,
  episodes: int,
  epsilon: float,
  batching: str = 'vmap',
  common: bool = False,
  mesh: Mesh | None = None,
  axis: str | None = None,
) -> Functions:
  """The stage's functions.

  Args:
    learner: what is retrained.
    environment: the game.
    frames: D, as NumPy arrays: nothing is bound to a device before a step is compiled.
    valid: [n] float32, 0 for padding.
    plan: what to do.
    key: () -> the key of everything random.
    episodes: played per learner.
    epsilon: share of random actions.
    batching: see `train_masked`.
    common: play all learners with the same random numbers.
    mesh: split the retrainings over its axis `data`, each device on its own; None for one device or under pmap.
    axis: of pmap, or None.
  """
  chex.assert_shape(valid, frames.actions.shape[:1])
  count, cells, expand = plan.count, int(np.prod(plan.masks.shape)), plan.masks.expand()
  names = tuple('top' if order.startswith(_TOP_OF) else order for order, _ in plan.points)
  followed = [order.removeprefix(_TOP_OF) for order, _ in plan.points if order.startswith(_TOP_OF)]
  # Which map a point follows: its own, or one of the others.
  sources = [followed.index(o.removeprefix(_TOP_OF)) + 1 if o.startswith(_TOP_OF) else 0 for o, _ in plan.points]
  fractions = np.asarray([fraction for _, fraction in plan.points], np.float32)

  def branch(number: int) -> jax.Array:
    return jax.random.fold_in(key(), number)

  def sample(ids: jax.Array) -> jax.Array:
    return plan.masks.sample(branch(_MASKS), ids)

  def values(halves: Statistics) -> jax.Array:
    def one(pair):
      return finalise(importance_merge(_half(pair, 0), _half(pair, 1)), plan.estimator, plan.masks.keep).value

    return jax.vmap(one)(halves)

  def ranked(state: MapState, ids: jax.Array) -> jax.Array:
    """[n, F] cells of the curve's retrainings `ids`."""
    maps = values(state.halves)[None]
    if followed:
      maps = jnp.concatenate([maps, state.others])
    point = ids // plan.learners % len(names)
    seed = ids // (plan.learners * len(names))
    value = maps[jnp.asarray(sources)[point], seed]
    return curve_cells(branch(_ORDERS), value, names, point, jnp.asarray(fractions)[point], ids, plan.truth)

  def play(cells: jax.Array, ids: jax.Array, curve: jax.Array) -> tuple[jax.Array, jax.Array]:
    root = jnp.where(curve, jax.random.key_data(branch(_CURVE)), jax.random.key_data(branch(_LEARNERS)))
    root = jax.random.wrap_key_data(root)
    # Both masks of an antithetic pair start from the same key, so that their difference is that of the masks.
    pairs = plan.masks.antithetic
    own = jnp.where(curve, ids, ids // 2) if pairs else ids
    keys = jax.vmap(lambda i: jax.random.fold_in(root, i))(own)
    result = retrain(
      learner,
      environment,
      jax.tree.map(jnp.asarray, frames),
      keys,
      cells[:, expand] * valid,
      episodes=episodes,
      epsilon=epsilon,
      batching=batching,
      common_key=jax.random.fold_in(root, 0) if common else None,
    )
    return result.returns.mean(axis=1), result.kept

  spread = play
  if mesh is not None:
    split, whole = PartitionSpec('data'), PartitionSpec()
    # Without check_vma a scan may start from constants.
    spread = jax.shard_map(play, mesh=mesh, in_specs=(split, split, whole), out_specs=split, check_vma=False)

  def gather(x: jax.Array) -> jax.Array:
    """All devices' rows on every device, in order: sums are then the same on any number of devices."""
    if axis is not None:
      return jax.lax.all_gather(x, axis, tiled=True)
    return x if mesh is None else jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec()))

  def init(key: jax.Array, batch: Any, earlier: Any) -> MapState:
    del key, batch
    empty = importance_init(cells, gram=plan.estimator == 'ridge', xp=jnp)
    halves = jax.tree.map(lambda x: jnp.zeros((plan.seeds, 2, *x.shape), x.dtype), empty)
    unknown = jnp.full(plan.seeds * count, jnp.nan)
    others = jnp.stack([values(earlier[name].halves) for name in followed]) if followed else None
    curve = jnp.full(plan.curve_size, jnp.nan)
    return MapState(halves, unknown, unknown, curve, jnp.zeros(plan.seeds, jnp.int32), others)

  def step(state: MapState, batch: Mapping[str, jax.Array], key: jax.Array) -> tuple[MapState, dict[str, jax.Array]]:
    del key
    ids, curve = batch['id'], batch['curve'][0]
    seed = ids[0] // count
    chosen = sample(ids) if not names else jax.lax.cond(curve, lambda: ranked(state, ids), lambda: sample(ids))
    idle = ~curve & (batch['known'][0] | (state.stopped[seed] > 0))
    returns, kept = jax.lax.cond(
      idle, lambda c, i, f: (batch['return'], batch['kept']), lambda c, i, f: spread(c, i, f), chosen, ids, curve
    )
    ids, masks, returns, kept = jax.tree.map(gather, (ids, chosen, returns, kept))
    done = (state, ids, masks, returns, kept)
    return jax.lax.cond(curve, after_curve, after_masks, *done) if names else after_masks(*done)

  def after_curve(state, ids, masks, returns, kept):
    del masks
    return state._replace(curve=state.curve.at[ids].set(returns)), _metrics(returns, kept, jnp.zeros(()))

  def after_masks(state, ids, masks, returns, kept):
    seed, number = ids[0] // count, ids[-1] % count + 1
    trained = state.stopped[seed] == 0
    pair = jax.tree.map(lambda x: x[seed], state.halves)
    parts = [_half(pair, i) for i in (0, 1)]
    groups = _groups(plan.chunk, plan.masks.antithetic)
    updated = [importance_update(p, masks[g], returns[g]) for p, g in zip(parts, groups, strict=True)]
    pair = jax.tree.map(lambda *x: jnp.where(trained, jnp.stack(x[:2]), jnp.stack(x[2:])), *updated, *parts)
    reliability = _reliability(*(finalise(_half(pair, i), plan.estimator).value for i in (0, 1)))
    reached = (plan.target > 0) & (reliability >= plan.target) & (number >= plan.min_masks)
    stopped = jnp.where(trained & reached, number, state.stopped[seed])
    new = state._replace(
      halves=jax.tree.map(lambda all_, one: all_.at[seed].set(one), state.halves, pair),
      returns=state.returns.at[ids].set(jnp.where(trained, returns, jnp.nan)),
      kept=state.kept.at[ids].set(jnp.where(trained, kept, jnp.nan)),
      stopped=state.stopped.at[seed].set(stopped),
    )
    return new, _metrics(returns, kept, reliability)

  @functools.cache
  def masks() -> np.ndarray:
    drawn = jax.jit(lambda: plan.masks.sample_all(key(), plan.seeds * count))()
    return np.asarray(drawn).reshape(plan.seeds, count, *plan.masks.shape)

  return Functions(init, step, masks)


def _half(pair: Statistics, index: int) -> Statistics:
  return jax.tree.map(lambda x: x[index], pair)


def _groups(chunk: int, pairs: bool) -> tuple[np.ndarray, np.ndarray]:
  """Positions of the even and the odd masks of a chunk; pairs stay together."""
  half = np.arange(chunk) // (2 if pairs else 1) % 2
  return np.flatnonzero(half == 0), np.flatnonzero(half == 1)


def _reliability(a: jax.Array, b: jax.Array) -> jax.Array:
  """Spearman-Brown of the rank correlation of two half maps [F]; 0 where a cell has no value or a map is constant."""
  ranks = jnp.stack([jax.scipy.stats.rankdata(x) for x in (a, b)])
  r = jnp.corrcoef(ranks)[0, 1]
  r = jnp.where(jnp.isfinite(a).all() & jnp.isfinite(b).all() & jnp.isfinite(r), r, 0.0)
  return jnp.where(r > -0.99, 2 * r / (1 + r), -1.0)


def _metrics(returns: jax.Array, kept: jax.Array, reliability: jax.Array) -> dict[str, jax.Array]:
  return {
    'return': returns.mean(),
    'return_sd': returns.std(),
    'empty_masks': jnp.sum(kept == 0) * 1.0,
    'reliability': reliability,
  }
