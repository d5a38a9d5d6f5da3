"""Cost of a training step against the size of the tables, row-sparse beside dense.

    python -m jaxpapers.xdeepint.throughput --rows 100000 1000000 5000000 --output throughput.png

13 tables of 64 rows and 26 that share the rest, Zipf-distributed ids, everything in memory. Times are processor seconds
of the whole process, which a busy machine inflates less than wall time; pin it to one core to compare programs.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from jaxpapers.xdeepint.embeddings import Fields
from jaxpapers.xdeepint.model import PinHead, XDeepInt
from jaxpapers.xdeepint.optimizers import GroupFtrl, ftrl, xdeepint_optimizer
from jaxpapers.xdeepint.training import row_sparse, summed_loss

SIZE = 16


class Cost(NamedTuple):
  """One measurement.

  Attributes:
    rows: of all tables.
    seconds: median processor seconds of a step.
    examples: a second.
    temporary: bytes that the step needs beside its state.
  """

  rows: int
  seconds: float
  examples: float
  temporary: int


def criteo_like(rows: int) -> Fields:
  """39 fields with `rows` rows in all."""
  sizes = (64,) * 13 + (max(1, (rows - 13 * 64) // 26),) * 26
  return Fields(tuple(f'f{i}' for i in range(39)), sizes)


def zipf_batch(fields: Fields, batch_size: int, seed: int, exponent: float = 1.3) -> dict[str, np.ndarray]:
  """A batch whose ids follow a Zipf law in every field."""
  rng = np.random.default_rng(seed)
  ids = [rng.zipf(exponent, batch_size) % size for size in fields.sizes]
  labels = (rng.random(batch_size) < 0.25).astype(np.float32)
  return {'ids': np.stack(ids, axis=1).astype(np.int32), 'label': labels, 'weight': np.ones(batch_size, np.float32)}


class Program(NamedTuple):
  """A training step and what it works on.

  Attributes:
    fields: the tables.
    step: (state, batch) -> state.
    state: before the first step.
    batches: that take turns.
  """

  fields: Fields
  step: Callable[[Any, Any], Any]
  state: Any
  batches: Sequence[Any]


def row_sparse_program(rows: int, head: PinHead, batch_size: int, row_slots: int = 0) -> Program:
  """A step of `row_sparse`."""
  fields = criteo_like(rows)
  batches = [jax.device_put(zipf_batch(fields, batch_size, seed)) for seed in range(4)]
  training = row_sparse(fields, SIZE, head, GroupFtrl(), ftrl(), row_slots=row_slots)
  state = jax.jit(training.init)(jax.random.key(0), batches[0], {})
  key = jax.random.key(0)
  return Program(fields, lambda state, batch: training.step(state, batch, key)[0], state, batches)


def dense_program(rows: int, head: PinHead, batch_size: int) -> Program:
  """A step of the optax pair, which rewrites whole tables."""
  fields = criteo_like(rows)
  batches = [jax.device_put(zipf_batch(fields, batch_size, seed)) for seed in range(4)]
  model, optimizer = XDeepInt(fields, SIZE, head), xdeepint_optimizer(GroupFtrl(), ftrl())

  @jax.jit
  def init():
    params = model.init(jax.random.key(0), jnp.zeros((1, 39), jnp.int32))['params']
    return params, optimizer.init(params)

  def step(state, batch):
    params, slots = state
    grads = jax.grad(lambda p: summed_loss(model.apply({'params': p}, batch['ids']), batch))(params)
    updates, slots = optimizer.update(grads, slots, params)
    return optax.apply_updates(params, updates), slots

  return Program(fields, step, init(), batches)


def compiled(program: Program) -> Any:
  """The step, compiled so that it writes into the state it is given."""
  return jax.jit(program.step, donate_argnums=0).lower(program.state, program.batches[0]).compile()


def median_step(step: Callable, program: Program, repeats: int, clock: Callable[[], float]) -> float:
  """Median seconds by `clock` of a compiled step; the state of `program` is used up."""
  state, times = program.state, []
  for index in range(repeats + 2):
    started = clock()
    state = jax.block_until_ready(step(state, program.batches[index % len(program.batches)]))
    times.append(clock() - started)
  return statistics.median(times[2:])


def cost(program: Program, repeats: int) -> Cost:
  """What a step costs the processor."""
  step = compiled(program)
  seconds = median_step(step, program, repeats, time.process_time)
  examples = len(program.batches[0]['label']) / seconds
  return Cost(program.fields.rows, seconds, examples, step.memory_analysis().temp_size_in_bytes)


def draw(costs: dict[str, list[Cost]], path: str) -> None:
  """Examples a second against rows."""
  figure, axis = plt.subplots(figsize=(5.5, 3.8))
  for name, line in costs.items():
    axis.plot([c.rows for c in line], [c.examples for c in line], marker='o', label=name)
  axis.set(xscale='log', yscale='log', xlabel='rows in all tables', ylabel='examples per processor second')
  axis.legend()
  figure.savefig(path, dpi=120, bbox_inches='tight')


def main(argv: Sequence[str] | None = None) -> None:
  """Measures, prints a table, and draws it where --output is given."""
  parser = argparse.ArgumentParser(prog='python -m jaxpapers.xdeepint.throughput', description=__doc__.split('\n')[0])
  parser.add_argument('--rows', type=int, nargs='+', default=[100_000, 1_000_000, 5_000_000])
  parser.add_argument('--layers', type=int, default=2)
  parser.add_argument('--sub-spaces', type=int, default=4)
  parser.add_argument('--batch-size', type=int, default=4096)
  parser.add_argument('--row-slots', type=int, default=0, help='slots for distinct ids; 0: as many as can occur')
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--dense', action='store_true', help='also the dense optimizers')
  parser.add_argument('--output', default='', help='PNG file')
  args = parser.parse_args(argv)
  head = PinHead(args.layers, args.sub_spaces)
  costs: dict[str, list[Cost]] = {'row-sparse': []} | ({'dense': []} if args.dense else {})
  print(f'{"rows":>10} {"optimizer":>12} {"step s":>8} {"examples/s":>11} {"temporary MiB":>14}')
  for rows in args.rows:
    for name, line in costs.items():
      if name == 'dense':
        program = dense_program(rows, head, args.batch_size)
      else:
        program = row_sparse_program(rows, head, args.batch_size, args.row_slots)
      line.append(one := cost(program, args.repeats))
      print(f'{one.rows:>10,} {name:>12} {one.seconds:>8.3f} {one.examples:>11,.0f} {one.temporary / 2**20:>14.1f}')
  if args.output:
    draw(costs, args.output)


if __name__ == '__main__':
  main()
