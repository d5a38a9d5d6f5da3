"""The step on the rows of a batch beside the one that rewrites whole tables, at a million rows.

`launch/benchmark.py` runs it after the stages of the config. Both write into the state they are given.
"""

import time

from jaxpapers.engine.benchmarks import Case
from jaxpapers.engine.measure import Measurement, program_bytes, program_flops, program_traffic
from jaxpapers.xdeepint import throughput
from jaxpapers.xdeepint.model import PinHead

# One seed: with several, a step trains all of them, and no other library's does.
CASES: tuple[Case, ...] = (Case('default', ('seeds=1',), ('xdeepint', 'lr', 'fm', 'dnn', 'dcnv2')),)


def programs(repeats: int, rows: int = 1_000_000, batch_size: int = 4096) -> tuple[list[Measurement], list[str]]:
  """Measurements, and a line that states their ratio."""
  head = PinHead(2, 4)
  sparse = _row('row-sparse step', throughput.row_sparse_program(rows, head, batch_size), repeats)
  dense = _row('dense step', throughput.dense_program(rows, head, batch_size), repeats, beside=sparse.name)
  ratio = dense.seconds / sparse.seconds
  line = f'a step on {rows:,} rows, batch {batch_size}: row-sparse {ratio:.1f} times as fast as dense'
  return [sparse, dense], [line]


def _row(name: str, program: throughput.Program, repeats: int, beside: str = '') -> Measurement:
  batch = program.batches[0]
  flops = program_flops(program.step, program.state, batch)
  started = time.perf_counter()
  step = throughput.compiled(program)
  compile_seconds = time.perf_counter() - started
  return Measurement(
    name,
    len(batch['label']),
    throughput.median_step(step, program, repeats, time.perf_counter),
    compile_seconds,
    flops,
    program_bytes(step),
    program_traffic(step),
    beside=beside,
  )
