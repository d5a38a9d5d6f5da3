"""Seeds, weights of the gap and metrics side by side: many trainings as one program."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpapers.engine import Supervised
from jaxpapers.reliant.problem import Problem
from jaxpapers.reliant.training import Knobs, Training, repeated


class Point(NamedTuple):
  """A setting that trainings of one program may differ in.

  Attributes:
    metric: 'sp' or 'eo'.
    alpha: weight of the gap.
  """

  metric: str
  alpha: float


class Grid(NamedTuple):
  """Replica p * seeds + s is training s at point p.

  Attributes:
    seeds: trainings per point. Seed s has its own weights, random numbers and, where the batch has one each, graph;
      they are the same at every point, so that points are compared in pairs.
    points: the first is the main one.
    metrics: order of the problem's contrasts.
    how: 'map' trains one replica after the other, quicker on CPU; 'vmap' all at once, for accelerators.
  """

  seeds: int
  points: Sequence[Point]
  metrics: Sequence[str]
  how: str = 'map'

  def knobs(self) -> Knobs:
    """Of every replica, [R]."""
    alphas = jnp.asarray([p.alpha for p in self.points], jnp.float32)
    rows = jnp.asarray([self.metrics.index(p.metric) for p in self.points], jnp.int32)
    return Knobs(jnp.repeat(alphas, self.seeds), jnp.repeat(rows, self.seeds))

  def seed_of(self) -> jax.Array:
    """Seed of every replica, [R] int32."""
    return jnp.tile(jnp.arange(self.seeds, dtype=jnp.int32), len(self.points))

  def each(self, function: Callable, *arguments: Any) -> Any:
    """`function` on every replica of `arguments` (leading axis [R])."""
    if self.how not in ('map', 'vmap'):
      raise ValueError(f"replicas={self.how!r} is not known; it is 'map' or 'vmap'.")
    if self.how == 'vmap':
      return jax.vmap(function)(*arguments)
    return jax.lax.map(lambda packed: function(*packed), arguments)


def problem_of(batch: Problem, seed: jax.Array, seeds: int) -> Problem:
  """The problem of one seed out of a batch that has one per seed, or one for all (equal copies, one per device)."""
  one_each = seeds > 1 and batch.labels.shape[0] == seeds and batch.labels.ndim == 2
  return jax.tree.map(lambda x: x[seed if one_each else 0], batch)


def replicated(
  training: Training, grid: Grid, epochs: int, targets: Callable[[Mapping[str, Any], Problem, jax.Array], Any] | None
) -> Supervised:
  """Init and step of a Stage whose state has a leading axis [R].

  Args:
    training: of one replica.
    grid: which replicas.
    epochs: in one step of the engine.
    targets: (states of the earlier stages, problem, seed) -> what `training.init` takes as targets.
  """

  def init(key, batch, earlier):
    def one(seed):
      problem = problem_of(batch, seed, grid.seeds)
      wanted = targets(earlier, problem, seed) if targets is not None else None
      return training.init(jax.random.fold_in(key, seed), problem, wanted)

    return grid.each(one, grid.seed_of())

  run = repeated(training.epoch, epochs)

  def step(state, batch, key):
    def one(state, seed, knobs):
      problem = problem_of(batch, seed, grid.seeds)
      return run(state, problem, jax.random.fold_in(key, seed), knobs)

    state, metrics = grid.each(one, state, grid.seed_of(), grid.knobs())
    # Curves show the main point; the others must be finite all the same, which the sum over all of them tells.
    finite = sum(jnp.sum(0.0 * x) for x in metrics.values())
    return state, {name: x[: grid.seeds].mean() + finite for name, x in metrics.items()}

  return Supervised(init, step)


def predictions(
  apply: Callable[[Any, Any], Any], grid: Grid, params: Callable[[Any], Any] = lambda s: s.model_state['best']['params']
) -> Callable[[Any, Problem], jax.Array]:
  """(state, batch) -> class probabilities [R, N, C] of every replica's best epoch.

  Args:
    apply: (parameters, graph) -> Output in evaluation mode.
    grid: which replicas.
    params: state of one replica -> parameters.
  """

  def step(state, batch):
    def one(state, seed):
      problem = problem_of(batch, seed, grid.seeds)
      return jax.nn.softmax(apply(params(state), problem.graph).logits)

    return grid.each(one, state, grid.seed_of())

  return step
