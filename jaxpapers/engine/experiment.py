"""The contract between a paper and the engine: stages are data, steps are pure, the engine owns every side effect."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
from jax.sharding import PartitionSpec

Batch = Any  # a pytree of numpy arrays; every leaf has the same leading (batch) dimension
State = Any  # a pytree of arrays
Metrics = Mapping[str, jax.Array]  # scalars
PyTree = Any
Key = jax.Array

FSDP = 'fsdp'
"""In a sharding rule: split the largest dimension that divides over the `data` axis, else replicate."""

ShardingRules = Sequence[tuple[str, PartitionSpec | str]]
"""(regular expression, PartitionSpec or FSDP), searched in the '/'-joined path of a leaf; the first hit counts."""

REPLICATED: ShardingRules = ()


class BatchFn(Protocol):
  """`batch(step)` is this host's share of batch `step`: a pure function, so that a resumed run needs no replay.

  An object that also has `iterate(start) -> Iterator[Batch]` (as `jaxpapers.data.Pipeline`) brings its own workers and
  prefetch and is read through it; it must yield batch(start), batch(start + 1), ...
  """

  def __call__(self, step: int) -> Batch:
    """This host's share of batch `step`."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """A pass over a fixed set with the state of a stage.

  Attributes:
    name: metrics appear as `name/metric`.
    batches: () -> this host's batches, all of one shape, the same number on every host, padded; a `valid` leaf
      ([batch], bool) marks real examples so that every example counts exactly once.
    step: (state, batch) -> pytree, pure, compiled by the engine; its outputs are replicated.
    summarize: (outputs of all batches, as numpy) -> {metric: float}, on the host.
    every: in steps; 0 means at the end of the stage only. The end of the stage always counts.
  """

  name: str
  batches: Callable[[], Iterable[Batch]]
  step: Callable[[State, Batch], PyTree]
  summarize: Callable[[Iterable[PyTree]], Mapping[str, float]]
  every: int = 0


@dataclasses.dataclass(frozen=True)
class Stage:
  """A pure step over one state, repeated.

  Attributes:
    name: unique in the experiment; metrics, checkpoints and reports use it.
    steps: how many steps.
    batch: see BatchFn.
    init: (key, batch, states of the earlier stages by name) -> state; pure, compiled by the engine. `batch` is a
      global batch 0, so shapes are those of `step`.
    step: (state, batch, key) -> (state, metrics); pure, compiled. `key` is fold_in(seed, stage, step). The state is
      donated.
    evaluations: run during and after the stage.
    sharding: rules for the state's leaves.
  """

  name: str
  steps: int
  batch: BatchFn
  init: Callable[[Key, Batch, Mapping[str, State]], State]
  step: Callable[[State, Batch, Key], tuple[State, Metrics]]
  evaluations: Sequence[Evaluation] = ()
  sharding: ShardingRules = REPLICATED


@dataclasses.dataclass(frozen=True)
class Experiment:
  """All that a paper trains, and what it shows of it.

  Attributes:
    stages: run one after the other.
    report: (final states by stage name, Report) -> None; draws figures and tables.
  """

  stages: Sequence[Stage]
  report: Callable[[Mapping[str, State], 'Any'], None]


def iterate(batch: BatchFn, start: int) -> Iterator[Batch]:
  """Batches from `start` on, through the pipeline's own workers where it has them."""
  if hasattr(batch, 'iterate'):
    yield from batch.iterate(start)
  step = start
  while True:
    yield batch(step)
    step += 1
