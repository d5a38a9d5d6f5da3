"""What the room computes fast: a sweep of thresholds, the official walk, frequencies, an optimal policy, real exits.

`launch/benchmark.py` runs it after the stages of the config. All timings of a ratio are of one run on one machine.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.engine.benchmarks import Case
from jaxpapers.engine.measure import Measurement, measure
from jaxpapers.predictive_exit import (
  costs,
  energy,
  engines,
  mdp,
  model,
  platforms,
  policies,
  prediction,
  scores,
  simulate,
  sweep,
)
from jaxpapers.predictive_exit.early_exit import Left, leave_early
from jaxpapers.predictive_exit.tables import Costs, ExitTable
from jaxpapers.predictive_exit.thresholds import activation_thresholds, batch_activation

# One seed: with several, an evaluation runs the networks of all.
CASES: tuple[Case, ...] = (Case('default', ('seeds=1',), dtypes=('float32', 'bfloat16')),)
SWEEP, WALK, DVFS, TABLE = 'sweep of thresholds', 'official walk', 'deadline-safe frequencies', 'optimal policy'
BINS, Q = 6, 0.25  # of the step table
START, BETA = 6, 1.2  # of the official walk


class Sizes(NamedTuple):
  """Of the made-up tables.

  Attributes:
    samples: that are reported.
    calibration: samples that engines learn from.
    thresholds: of the sweep.
    ticks: of the deadline, in the optimal policy.
  """

  samples: int = 10_000
  calibration: int = 1000
  thresholds: int = 200
  ticks: int = 200


SIZES = Sizes()


class Given(NamedTuple):
  """What programs and loops work on; 16 exits, those of the pooled VGG-19, and 10 classes.

  Attributes:
    calibration: samples that engines learn from.
    test: samples that are reported.
    thetas: [thresholds].
    costs: work of the pooled VGG-19.
    levels: [exits - 1] activation levels of `test`.
  """

  calibration: ExitTable
  test: ExitTable
  thetas: jax.Array
  costs: Costs
  levels: jax.Array


def made_up(samples: int, seed: int, exits: int = 16, classes: int = 10) -> ExitTable:
  """Logits that grow surer with depth, faster for some samples than for others."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, classes, samples)
  rise = rng.gamma(2.0, 4.0, (samples, 1)) * np.linspace(0.1, 1.0, exits)
  logits = rng.normal(0, 1, (samples, exits, classes)) + rise[..., None] * (np.arange(classes) == labels[:, None, None])
  return ExitTable(logits.astype(np.float32), labels.astype(np.int32))


def given(sizes: Sizes = SIZES) -> Given:
  """The same for our programs and for loops."""
  calibration, test = made_up(sizes.calibration, 0), made_up(sizes.samples, 1)
  thetas = jax.jit(lambda z: sweep.threshold_grid(scores.max_prob(z), sizes.thresholds))(calibration.logits)
  levels = jax.jit(lambda z: activation_thresholds(batch_activation(z, 'mean_max_abs')[None]))(test.logits[:, :-1])
  return Given(calibration, test, thetas, costs.work(model.pooled_vgg19()).costs, levels)


def swept(found: Given) -> Callable[[sweep.Scored, sweep.Scored], dict[str, sweep.Curve]]:
  """(calibration, test) -> classic exit and a step table at all thresholds."""

  def run(calibration: sweep.Scored, test: sweep.Scored) -> dict[str, sweep.Curve]:
    # Outside the loop over thresholds: bins of scores do not depend on them.
    table = engines.engine('table', Q, BINS, edges=engines.score_edges(calibration.scores, BINS))
    schemes = {'classic': sweep.classic_scheme(), 'predictive': sweep.predictive_scheme(table)}
    return sweep.sweep(schemes, calibration, test, found.costs, found.thetas)

  return run


def programs(repeats: int) -> tuple[list[Measurement], list[str]]:
  """Measurements, and lines that state their ratios."""
  rows, lines = real_exits(repeats)
  return policy_programs(repeats) + rows, lines


def policy_programs(repeats: int, sizes: Sizes = SIZES) -> list[Measurement]:
  """Programs on tables of per-exit outputs: SWEEP, WALK, DVFS and TABLE."""
  found = given(sizes)
  sets = tuple(sweep.scored(jax.device_put(table), scores.max_prob) for table in (found.calibration, found.test))
  walk = functools.partial(prediction.official_walk, start=START)
  rows = [
    measure(SWEEP, swept(found), sets, sizes.thresholds * sizes.samples, repeats),
    measure(WALK, walk, (jax.device_put(found.test.logits), found.levels, BETA), sizes.samples, repeats),
  ]
  # Deadlines are compared in float64.
  with jax.enable_x64(True):
    tables = jax.jit(energy.cost_tables)(platforms.platform('rk3399_big'), found.costs)
    limit = energy.deadline(tables, 1.25)
    calibration, test = (np.asarray(jax.jit(scores.max_prob)(t.logits), np.float64) for t in found[:2])

    @jax.jit
    def walk_of(calibration, test):
      return policies.predictive(test, 0.9, engines.engine('table', Q, BINS)(calibration, test, 0.9))

    way = walk_of(calibration, test)

    def choose(way, limit):
      return simulate.deadline_safe(tables, way, limit, tables.switch_time.shape[0] - 1)

    def solve(calibration, limit):
      edges = engines.score_edges(calibration, BINS)
      return mdp.bellman(mdp.chain(calibration, 0.9, edges), tables, limit, sizes.ticks)

    rows += [
      measure(DVFS, choose, (way, limit), sizes.samples, repeats, 'float64'),
      measure(TABLE, solve, (jnp.asarray(calibration), limit), 1, repeats, 'float64'),
    ]
  return rows


def real_exits(
  repeats: int, net: model.MultiExit | None = None, left_at: int = 7
) -> tuple[list[Measurement], list[str]]:
  """One image through the official VGG-19 without exits, and through one that stops at exit `left_at` (from 0)."""
  net = net or model.vgg19()
  images = jax.random.normal(jax.random.key(0), (1, net.image_size, net.image_size, 3))
  variables = jax.jit(net.init)(jax.random.key(1), images)

  def plain(variables: Any, images: jax.Array) -> jax.Array:
    return net.apply(variables, images, method='plain')

  def stopped(variables: Any, images: jax.Array, exit_: jax.Array) -> Left:
    def segment(carry, k):
      return net.apply(variables, carry, k, method='segment')

    def head(carry, k):
      return net.apply(variables, carry, k, method='head')

    def decide(logits, k):
      return jnp.full(logits.shape[0], k >= exit_), jnp.ones(logits.shape[0], jnp.int32)

    return leave_early(segment, head, net.exits, decide, net.apply(variables, images, method='start'))

  rows = [
    measure('one image, no exits', plain, (variables, images), 1, repeats),
    measure(f'one image, left at exit {left_at + 1}', stopped, (variables, images, jnp.int32(left_at)), 1, repeats),
  ]
  share = rows[1].seconds / rows[0].seconds
  work = costs.work(net).costs
  part = np.sum(work.segment_macs[: left_at + 1]) / float(policies.plain_macs(work))
  line = (
    f'leaving {net.exits} exits at number {left_at + 1}, behind {part:.2f} of the work, takes {share:.2f} of the time'
  )
  return rows, [line]
