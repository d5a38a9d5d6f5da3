"""The optimal joint choice of the next exit and the frequency, under a calibrated Markov chain (extension).

Scores are binned; the chain says how likely a sample that was unconfident at exit k in bin b is unconfident at a later
exit k' in bin b'. Bellman's equation over (exit, bin, operating point, ticks left) then gives the policy of least
expected energy that never misses the deadline; at run time it is a table look-up. Shapes: `exits` L, `bins` B,
`points` J, `ticks` R. Row k + 1 belongs to exit k, row 0 to the start. Times: s, energies: J.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxpapers.predictive_exit.energy import CostTables
from jaxpapers.predictive_exit.engines import score_bins
from jaxpapers.predictive_exit.policies import Walk, confident
from jaxpapers.predictive_exit.simulate import Run
from jaxpapers.predictive_exit.tables import Array

_ROUND = 1e-9  # ticks; a duration of exactly n ticks is not rounded up to n + 1


def chain(scores: Array, theta: Array, edges: Array, kappa: float = 5.0) -> jax.Array:
  """P[k + 1, b, k', b']: unconfident at k' in bin b', given unconfident at k in bin b; [exits + 1, bins, exits, bins].

  (hits + kappa * row) / (n + kappa), with `row` the same share over all bins b. At the start (row 0) all samples count
  and every b has the same values. Zero for k' <= k and for the last exit, which always leaves.

  Source: our extension.

  Args:
    scores: [samples, exits] of the calibration set.
    theta: one threshold or [exits].
    edges: [bins - 1] of `engines.score_edges`.
    kappa: samples that the share over all bins counts as.
  """
  chex.assert_rank([scores, edges], [2, 1])
  samples, exits = jnp.shape(scores)
  bins = jnp.shape(edges)[0] + 1
  dtype = jnp.result_type(float)
  unsure = ~confident(scores, theta)
  here = (jax.nn.one_hot(score_bins(edges, scores), bins, dtype=dtype) * unsure[..., None]).transpose(1, 2, 0)
  hits = jnp.einsum('kbn,lcn->kblc', here, here)
  n = jnp.sum(here, axis=-1)[:, :, None, None]
  total = jnp.maximum(jnp.sum(n, axis=1, keepdims=True), 1.0)
  row = jnp.sum(hits, axis=1, keepdims=True) / total
  # Without samples and without kappa there is nothing to divide by, and nothing in the numerator.
  inner = (hits + kappa * row) / jnp.where(n + kappa > 0, n + kappa, 1.0)
  start = jnp.broadcast_to(jnp.mean(here, axis=-1), (1, bins, exits, bins))
  later = jnp.arange(exits)[None, :] > jnp.arange(-1, exits)[:, None]
  return jnp.where(later[:, None, :, None], jnp.concatenate([start, inner]), 0.0)


class Policy(NamedTuple):
  """Solution of Bellman's equation.

  Attributes:
    value: [exits + 1, bins, points, ticks + 1] expected energy to go, J; infinite where the deadline cannot be kept.
    exit: same shape, int32, next exit to visit.
    point: same shape, int32, operating point on the way there.
    tick: s.
  """

  value: jax.Array
  exit: jax.Array
  point: jax.Array
  tick: jax.Array


def _spans(tables: CostTables) -> tuple[jax.Array, jax.Array]:
  """(time, energy) from exit k (row k + 1) to the head of exit k', inclusive; [exits + 1, exits, points]."""
  zero = jnp.zeros((1, tables.segment_time.shape[1]), tables.segment_time.dtype)

  def between(segment, head):
    prefix = jnp.concatenate([zero, jnp.cumsum(segment, axis=0)])
    return prefix[None, 1:] - prefix[:, None] + head[None]

  return (
    between(tables.segment_time, tables.head_time),
    between(tables.segment_energy, tables.head_energy),
  )


def _ticks(time: jax.Array, switch_time: jax.Array, tick: jax.Array) -> jax.Array:
  """Ticks of spans [..., points'] from every point; [..., points', points] int32."""
  return jnp.ceil((time[..., None] + switch_time.T) / tick - _ROUND).astype(jnp.int32)


def bellman(transitions: Array, tables: CostTables, limit: Array, ticks: int, fixed_next: bool = False) -> Policy:
  """The policy of least expected energy among those that cannot miss the deadline. Source: our extension.

    V[k, b, c, r] = min over k' > k, c' of E_switch[c, c'] + E(k -> k', c') + sum_b' P V[k', b', c', r - ticks],

  infinite if r goes negative, or if any V[k', b', c', r'] is (k' not the last). Ties: lowest k', then lowest c'.

  Args:
    transitions: [exits + 1, bins, exits, bins] of `chain`.
    tables: times and energies; forecasts cost nothing here, a look-up replaces them.
    limit: deadline, s.
    ticks: resolution; durations are rounded up to limit / ticks.
    fixed_next: every exit is visited: classic early exit with the best frequencies.
  """
  tables = jax.tree.map(jnp.asarray, tables)
  _, bins, exits, _ = transitions.shape
  points = tables.segment_time.shape[1]
  tick = jnp.asarray(limit) / ticks
  span_time, span_energy = _spans(tables)
  left = jnp.arange(ticks + 1)
  index = jnp.arange(exits)

  def solve(value, step):
    k, p, time, energy = step
    allowed = (index == k + 1) if fixed_next else (index > k)
    # Expected energy after k', by bin at k, point and ticks then left: [bins, exits, points, ticks].
    lost = jnp.any(jnp.isinf(value), axis=1) & (index[:, None, None] < exits - 1)
    finite = jnp.where(jnp.isinf(value), 0.0, value)
    ahead = jnp.where(lost[None], jnp.inf, jnp.einsum('blc,lcjr->bljr', p, finite))
    rest = left - _ticks(time, tables.switch_time, tick)[..., None]  # [exits, points', points, ticks]
    shifted = jnp.take_along_axis(ahead[:, :, :, None, :], jnp.maximum(rest, 0)[None], axis=-1)
    cost = (energy[..., None] + tables.switch_energy.T)[None, ..., None] + shifted
    cost = jnp.where((rest >= 0) & allowed[:, None, None, None], cost, jnp.inf)
    flat = cost.reshape(bins, exits * points, points, ticks + 1)
    best = jnp.argmin(flat, axis=1).astype(jnp.int32)
    here = jnp.take_along_axis(flat, best[:, None], axis=1)[:, 0]
    # Row k + 1 of the result is exit k; the start, k = -1, has no place among the exits.
    value = jnp.where(k >= 0, value.at[jnp.maximum(k, 0)].set(here), value)
    return value, (here, best // points, best % points)

  end = jnp.zeros((exits, bins, points, ticks + 1), tables.segment_energy.dtype)
  steps = (jnp.arange(-1, exits - 1), transitions[:-1], span_time[:-1], span_energy[:-1])
  _, (value, exit_, point) = jax.lax.scan(solve, end, steps, reverse=True)
  nothing = jnp.zeros((1, bins, points, ticks + 1))
  last = nothing.astype(jnp.int32)
  return Policy(
    jnp.concatenate([value, nothing.astype(value.dtype)]),
    jnp.concatenate([exit_, last + exits - 1]),
    jnp.concatenate([point, last + jnp.arange(points)[None, None, :, None].astype(jnp.int32)]),
    tick,
  )


def start_value(policy: Policy, start_point: Array) -> jax.Array:
  """Expected energy of an inference that starts at `start_point` with the whole deadline left, J."""
  return policy.value[0, 0, start_point, -1]


def run(policy: Policy, tables: CostTables, scores: Array, theta: Array, edges: Array, start_point: Array):
  """Runs the policy on samples: at every visited exit one look-up names the next exit and the frequency.

  Args:
    policy: of `bellman`.
    tables: times and energies.
    scores: [samples, exits].
    theta: one threshold or [exits].
    edges: [bins - 1].
    start_point: int, operating point at the start.

  Returns:
    (walk, run): as of every other policy; `walk.predicted[:, k]` is the exit chosen at k (the choice at the start is
    in no column), `run.clock[:, k]` the time when exit k was visited or passed.
  """
  tables = jax.tree.map(jnp.asarray, tables)
  _, exits = jnp.shape(scores)
  sure = confident(scores, theta)
  bins = score_bins(edges, scores)
  ticks = policy.value.shape[-1] - 1
  span_time, span_energy = _spans(tables)
  span_ticks = _ticks(span_time, tables.switch_time, policy.tick)

  class State(NamedTuple):
    """Row of the present exit, next exit, point, ticks left, s, J, changes."""

    target: jax.Array
    point: jax.Array
    left: jax.Array
    time: jax.Array
    energy: jax.Array
    switches: jax.Array

  def decide(state, row, b, going):
    """Pays the way to the exit that the table names at `row`."""
    entry = (row, b, state.point, state.left)
    target, point = policy.exit[entry], policy.point[entry]
    paid = State(
      target,
      point,
      jnp.maximum(state.left - span_ticks[row, target, point, state.point], 0),
      state.time + tables.switch_time[state.point, point] + span_time[row, target, point],
      state.energy + tables.switch_energy[state.point, point] + span_energy[row, target, point],
      state.switches + (point != state.point),
    )
    return jax.tree.map(lambda new, old: jnp.where(going, new, old), paid, state)

  def one(sure, bins):
    zero = jnp.zeros((), tables.segment_time.dtype)
    begin = State(
      jnp.zeros((), jnp.int32),
      jnp.asarray(start_point, jnp.int32),
      jnp.asarray(ticks, jnp.int32),
      zero,
      zero,
      jnp.zeros((), jnp.int32),
    )
    first = decide(begin, 0, 0, jnp.asarray(True))

    def layer(carry, column):
      state, taken = carry
      k, sure_k, bin_k = column
      here = (state.target == k) & (taken < 0)
      going = here & ~sure_k
      point, clock = state.point, state.time
      executed = taken < 0
      state = decide(state, k + 1, bin_k, going)
      taken = jnp.where(here & sure_k, k, taken)
      outputs = (here, jnp.where(going, state.target, -1), jnp.where(executed, point, -1), clock)
      return (state, taken), outputs

    columns = (jnp.arange(exits, dtype=jnp.int32), sure, bins)
    start = (first, jnp.full((), -1, jnp.int32))
    (state, taken), (visited, predicted, points, clock) = jax.lax.scan(layer, start, columns)
    made = jnp.sum(visited, dtype=jnp.int32) - 1
    return Walk(taken, visited, made, predicted), Run(state.energy, state.time, state.switches, points, clock)

  return jax.vmap(one)(sure, bins)
