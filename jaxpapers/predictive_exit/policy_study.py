"""Energy under deadlines of every policy at equal calibration accuracy, in one compiled program (extension)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpapers.predictive_exit import dvfs, energy, engines, mdp, policies, schedules, scores, simulate, sweep
from jaxpapers.predictive_exit.energy import CostTables, Platform
from jaxpapers.predictive_exit.policies import Walk
from jaxpapers.predictive_exit.simulate import Run
from jaxpapers.predictive_exit.sweep import Scored
from jaxpapers.predictive_exit.tables import Array, Costs

BINS = 6
TICKS = 100  # of the deadline, in dynamic programmes
LEVELS = 10  # thresholds that the optimal policy may choose from


def schemes(calibration: Scored) -> dict[str, sweep.Scheme]:
  """The policies that are compared, by name; bins of scores are those of the calibration set."""
  edges = engines.score_edges(calibration.scores, BINS)
  cautious, bold = (engines.engine('table', q, BINS, edges=edges) for q in (0.25, 0.5))
  return {
    'classic': sweep.classic_scheme(),
    'classic, every third': sweep.classic_scheme(stride=3),
    'classic from start': sweep.classic_scheme(from_start=True),
    'predictive': sweep.predictive_scheme(cautious),
    'predictive from start': sweep.predictive_scheme(bold, from_start=True),
    'predictive ramp': sweep.predictive_scheme(engines.engine('ramp')),
    'predictive linear': sweep.predictive_scheme(engines.engine('linear')),
  }


class Outcome(NamedTuple):
  """A policy with a frequency rule under one deadline, on the test set.

  Attributes:
    energy: mean, relative to the network without exits at the highest frequency.
    accuracy: share right.
    misses: share of samples later than the deadline.
    heads: heads run per sample.
    slowest: longest time, relative to the deadline.
  """

  energy: jax.Array
  accuracy: jax.Array
  misses: jax.Array
  heads: jax.Array
  slowest: jax.Array


class Chosen(NamedTuple):
  """Walks at the thresholds that calibration chose, by scheme.

  Attributes:
    theta: one number each.
    test: walks of the test samples.
    calibration: walks of the calibration samples.
  """

  theta: Mapping[str, jax.Array]
  test: Mapping[str, Walk]
  calibration: Mapping[str, Walk]


def choose_all(
  curves: Mapping[str, sweep.Curve], thetas: Array, calibration: Scored, test: Scored, target: Array
) -> Chosen:
  """The cheapest threshold of every scheme whose calibration accuracy reaches the target, and its walks."""
  known = schemes(calibration)
  both, split = sweep.join(calibration, test)
  theta, on_test, on_calibration = {}, {}, {}
  for name in curves:
    curve = curves[name]
    theta[name] = jnp.asarray(thetas)[sweep.choose(curve.calibration_accuracy, curve.calibration_compute, target)]
    on_calibration[name], on_test[name] = split(known[name](calibration, both, theta[name]))
  return Chosen(theta, on_test, on_calibration)


def _accuracy(table: Scored, walk: Walk) -> jax.Array:
  return policies.accuracy(table.logits, table.labels, walk.exit)


def _outcome(table: Scored, walk: Walk, run: Run, limit: jax.Array, plain: jax.Array) -> Outcome:
  heads = jnp.mean(jnp.sum(walk.visited, axis=1), dtype=plain.dtype)
  return Outcome(
    jnp.mean(run.energy) / plain,
    _accuracy(table, walk),
    simulate.miss_rate(run, limit),
    heads,
    jnp.max(run.time) / limit,
  )


def _first_fit(times: jax.Array, limit: jax.Array) -> jax.Array:
  """Lowest point whose time fits the deadline, the highest if none does."""
  fits = times <= limit * (1 + dvfs.SLACK)
  return jnp.where(jnp.any(fits), jnp.argmax(fits), fits.shape[0] - 1)


def _usable(walk: Walk) -> jax.Array:
  """Exits that a classic policy may run: those that any sample visited."""
  return jnp.any(walk.visited, axis=0)


def lowest_safe(tables: CostTables, walk: Walk, usable: jax.Array, limit: jax.Array) -> Run:
  """Early exit at the lowest frequency at which even a sample that visits every usable exit is in time."""
  worst = jnp.sum(tables.segment_time + tables.head_time * usable[:, None], axis=0)
  return simulate.fixed_point(tables, walk, _first_fit(worst, limit))


def planned(tables: CostTables, walk: Walk, calibration: Walk, usable: jax.Array, limit: jax.Array) -> Run:
  """Early exit with the input-independent schedule that the calibration set's exit statistics make best."""
  exits, points = tables.segment_time.shape
  heads = usable[:, None]
  p = schedules.problem(
    tables.segment_energy + heads * tables.head_energy,
    tables.segment_time + heads * tables.head_time,
    tables.switch_time,
    tables.switch_energy,
    points - 1,
    schedules.reach_probability(calibration.exit, exits),
  )
  value, schedule = schedules.plan(p, limit, 4 * TICKS)
  schedule = jnp.where(jnp.isfinite(value), schedule, points - 1)
  return simulate.scheduled(tables, walk, schedule, points - 1)


def clairvoyant(tables: CostTables, table: Scored, limit: jax.Array) -> tuple[Walk, Run]:
  """The bound: every sample runs one head, at its first right exit, at the frequency that is cheapest in time."""
  walk = policies.classic(scores.oracle_score(table.logits, table.labels), 0.5)
  walk = walk._replace(visited=jnp.arange(walk.visited.shape[1]) == walk.exit[:, None])
  time = jnp.cumsum(tables.segment_time, axis=0) + tables.head_time
  spent = jnp.cumsum(tables.segment_energy, axis=0) + tables.head_energy
  in_time = time <= limit * (1 + dvfs.SLACK)
  point = jnp.argmin(jnp.where(in_time, spent, jnp.inf), axis=1)
  point = jnp.where(jnp.any(in_time, axis=1), point, time.shape[1] - 1)[walk.exit]
  run = jax.vmap(lambda w, c: jax.tree.map(lambda x: x[0], simulate.fixed_point(tables, w, c)))(
    jax.tree.map(lambda x: x[:, None], walk), point
  )
  return walk, run


def optimal(
  tables: CostTables, calibration: Scored, test: Scored, thetas: jax.Array, limit: jax.Array, target: Array
) -> tuple[Walk, Run]:
  """The optimal joint policy at the threshold that calibration chooses among `thetas`; walk and run of the test set."""
  edges = engines.score_edges(calibration.scores, BINS)
  top = tables.segment_time.shape[1] - 1

  def solve(theta):
    return mdp.bellman(mdp.chain(calibration.scores, theta, edges), tables, limit, TICKS)

  def at(theta):
    walk, run = mdp.run(solve(theta), tables, calibration.scores, theta, edges, top)
    return _accuracy(calibration, walk), jnp.mean(run.energy)

  accuracy, cost = jax.lax.map(at, thetas)
  theta = jnp.asarray(thetas)[sweep.choose(accuracy, cost, target)]
  return mdp.run(solve(theta), tables, test.scores, theta, edges, top)


def under_deadline(
  tables: CostTables,
  platform: Platform,
  chosen: Chosen,
  calibration: Scored,
  test: Scored,
  thetas: jax.Array,
  target: Array,
  alpha: jax.Array,
) -> tuple[dict[str, Outcome], dict[str, tuple[Walk, Run]]]:
  """Every policy with its frequency rule under the deadline alpha times the plain network's time.

  Args:
    tables: times and energies.
    platform: whose they are.
    chosen: walks at the chosen thresholds.
    calibration: set that schedules and the optimal policy learn from.
    test: set that is reported.
    thetas: [count] thresholds that the optimal policy may choose from.
    target: least calibration accuracy.
    alpha: >= 1.

  Returns:
    (outcomes, walks and runs), by name.
  """
  limit = energy.deadline(tables, alpha)
  plain = energy.plain_energy(tables)[-1]
  top = tables.segment_time.shape[1] - 1
  samples, exits = test.scores.shape
  point = _first_fit(energy.plain_time(tables), limit)
  ones = jnp.ones((), plain.dtype)
  last = jnp.full(samples, exits - 1, jnp.int32)
  plain_right = policies.accuracy(test.logits, test.labels, last)
  outcomes = {
    'plain, lowest frequency': Outcome(
      energy.plain_energy(tables)[point] / plain, plain_right, 0 * ones, ones, energy.plain_time(tables)[point] / limit
    )
  }
  classic, from_start = chosen.test['classic'], chosen.test['classic from start']
  every = jnp.ones(exits, bool)
  later = _usable(chosen.calibration['classic from start']) | _usable(from_start)
  bold = chosen.test['predictive from start']
  cautious = chosen.test['predictive']
  start = dvfs.planned_point(tables, limit)
  runs = {
    'classic, highest frequency': (classic, simulate.fixed_point(tables, classic, top)),
    'classic, lowest safe frequency': (classic, lowest_safe(tables, classic, every, limit)),
    'classic, fixed schedule': (classic, planned(tables, classic, chosen.calibration['classic'], every, limit)),
    'classic from start, fixed schedule': (
      from_start,
      planned(tables, from_start, chosen.calibration['classic from start'], later, limit),
    ),
    'predictive, stretch (successor)': (cautious, simulate.stretch(tables, platform.f, cautious)),
    'predictive, soft': (cautious, simulate.deadline_safe(tables, cautious, limit, top, 'soft')),
    'predictive, hard': (cautious, simulate.deadline_safe(tables, cautious, limit, top)),
    'predictive from start, hard, least energy': (
      bold,
      simulate.deadline_safe(tables, bold, limit, start, 'hard', 'min_energy'),
    ),
    'optimal joint policy (mdp), hard': optimal(tables, calibration, test, thetas, limit, target),
    'oracle exit': clairvoyant(tables, test, limit),
  }
  for name, (walk, run) in runs.items():
    outcomes[name] = _outcome(test, walk, run, limit, plain)
  return outcomes, runs


class Study(NamedTuple):
  """All numbers of a report; entries of `outcomes` are [alphas].

  Attributes:
    thetas: [thresholds].
    curves: by scheme.
    chosen: walks at the chosen thresholds.
    outcomes: by policy and frequency rule.
    runs: by policy and frequency rule, [alphas, samples, ...].
    target: least calibration accuracy.
    final: accuracy of the network without exits on the test set.
  """

  thetas: Any
  curves: Mapping[str, sweep.Curve]
  chosen: Chosen
  outcomes: Mapping[str, Outcome]
  runs: Mapping[str, tuple[Walk, Run]]
  target: Any
  final: Any


def study(
  platform: Platform,
  costs: Costs,
  calibration: Scored,
  test: Scored,
  alphas: Array,
  allowed_loss: Array = 0.005,
  count: int = 200,
) -> Study:
  """Sweeps every scheme, chooses thresholds on calibration data, and runs every frequency rule; `count` is static.

  Args:
    platform: the processor.
    costs: work of segments and heads.
    calibration: what is learned and chosen from.
    test: what is reported.
    alphas: [alphas] deadlines, in times of the plain network at the highest frequency.
    allowed_loss: accuracy that may be given up against the network without exits, on the calibration set.
    count: thresholds.
  """
  tables = energy.cost_tables(platform, costs)
  thetas = sweep.threshold_grid(calibration.scores, count)
  curves = sweep.sweep(schemes(calibration), calibration, test, costs, thetas)

  def final(table: Scored) -> jax.Array:
    return jnp.mean(jnp.argmax(table.logits[:, -1], axis=-1) == table.labels, dtype=jnp.result_type(float))

  target = final(calibration) - allowed_loss
  chosen = choose_all(curves, thetas, calibration, test, target)
  # The upper two thirds: lower thresholds leave at once and are never accurate enough.
  levels = thetas[jnp.linspace(count // 3, count - 1, LEVELS).astype(int)]

  def at(alpha):
    return under_deadline(tables, platform, chosen, calibration, test, levels, target, alpha)

  outcomes, runs = jax.lax.map(at, jnp.asarray(alphas))
  return Study(thetas, curves, chosen, outcomes, runs, target, final(test))


def with_head_ratio(costs: Costs, ratio: Array) -> Costs:
  """The same network with heads of `ratio` times a mean segment, multiply-adds and bytes; the classifier is kept."""
  early = jnp.arange(jnp.shape(costs.head_macs)[0]) < jnp.shape(costs.head_macs)[0] - 1
  return costs._replace(
    head_macs=jnp.where(early, ratio * jnp.mean(jnp.asarray(costs.segment_macs)), costs.head_macs),
    head_bytes=jnp.where(early, ratio * jnp.mean(jnp.asarray(costs.segment_bytes)), costs.head_bytes),
  )


def by_head_cost(found: Study, costs: Costs, ratios: Array) -> dict[str, tuple[jax.Array, jax.Array, jax.Array]]:
  """(accuracy, compute, heads) on test of every scheme at its chosen threshold, for other costs of heads; [ratios].

  Args:
    found: of the same networks; walks do not depend on costs, so that nothing is swept again.
    costs: the true ones.
    ratios: costs of a head in mean segments.
  """

  def at(ratio: jax.Array) -> dict[str, tuple[jax.Array, jax.Array, jax.Array]]:
    priced, chosen = with_head_ratio(costs, ratio), {}
    for name, curve in found.curves.items():
      cost = sweep.compute_of(curve.calibration_shares, priced)
      best = sweep.choose(curve.calibration_accuracy, cost, found.target)
      chosen[name] = (curve.accuracy[best], sweep.compute_of(curve.shares, priced)[best], curve.heads[best])
    return chosen

  return jax.vmap(at)(jnp.asarray(ratios))
