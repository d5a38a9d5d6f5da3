"""What the benchmark measures, and its tables. Knows no paper."""

import dataclasses
import importlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jaxpapers.engine import parallel
from jaxpapers.engine.errors import UserError, suggest
from jaxpapers.engine.experiment import Experiment
from jaxpapers.engine.measure import Measurement, measure


@dataclasses.dataclass(frozen=True)
class Case:
  """Settings that `launch/benchmark.py --all` times a room under; `CASES` of the room's `benchmarks.py` holds them.

  Attributes:
    variant: of the room's config.
    overrides: 'key=value' without the leading 'config.'.
    stages: those to be timed; all where empty.
    dtypes: values of `config.dtype` that the room computes in; an accelerator is timed in each.
  """

  variant: str = 'default'
  overrides: tuple[str, ...] = ()
  stages: tuple[str, ...] = ()
  dtypes: tuple[str, ...] = ('float32',)


class Result(NamedTuple):
  """What one start of the benchmark found.

  Attributes:
    method: the room.
    variant: of its config, with overrides.
    device: what it ran on.
    matmul_peak: operations per second by dtype.
    bandwidth_peak: bytes per second.
    rows: the measurements.
    lines: sentences that compare them.
    missing: a sentence for each peer that is not installed.
  """

  method: str
  variant: str
  device: str
  matmul_peak: Mapping[str, float]
  bandwidth_peak: float
  rows: Sequence[Measurement]
  lines: Sequence[str] = ()
  missing: Sequence[str] = ()

  @classmethod
  def from_json(cls, found: Mapping[str, Any]) -> 'Result':
    """The inverse of `to_json`."""
    return cls(**{**found, 'rows': [Measurement(**row) for row in found['rows']]})

  def to_json(self) -> dict[str, Any]:
    """For `json.dump`."""
    return {**self._asdict(), 'rows': [dataclasses.asdict(row) for row in self.rows]}


def cases(slug: str) -> tuple[Case, ...]:
  """CASES of a room; () for one without `benchmarks.py`."""
  name = f'jaxpapers.{slug}.benchmarks'
  return importlib.import_module(name).CASES if importlib.util.find_spec(name) else ()


def stage_rows(
  experiment: Experiment, seed: int, repeats: int, only: Sequence[str] = (), dtype: str = 'float32'
) -> list[Measurement]:
  """Every stage's step and first evaluation.

  Args:
    experiment: whose stages are timed.
    seed: of the initial state.
    repeats: timed calls of each program.
    only: names of the stages to time, the others are only set up; all where empty.
    dtype: that `experiment` was made to compute in.

  Raises:
    UserError: for an unknown stage.
  """
  names = [stage.name for stage in experiment.stages]
  for name in only:
    if name not in names:
      raise UserError(f'There is no stage {name!r}.{suggest(name, names)}')
  rows, states, key = [], {}, jax.random.key(seed)
  for stage in experiment.stages:
    batch = jax.device_put(stage.batch(0))
    size = len(jax.tree.leaves(batch)[0])
    state = states[stage.name] = parallel.run_init(stage.init, (key, batch, dict(states)), None)
    if only and stage.name not in only:
      continue
    rows.append(measure(f'{stage.name} train', stage.step, (state, batch, key), size, repeats, dtype))
    for evaluation in stage.evaluations[:1]:
      batch = jax.device_put(next(iter(evaluation.batches())))
      size = len(jax.tree.leaves(batch)[0])
      rows.append(measure(f'{stage.name} {evaluation.name}', evaluation.step, (state, batch), size, repeats, dtype))
  return rows


def programs(slug: str, repeats: int) -> tuple[list[Measurement], list[str]]:
  """Measurements of programs that are no stage, and lines that compare them, by the room's `benchmarks.py` if any."""
  name = f'jaxpapers.{slug}.benchmarks'
  module = importlib.import_module(name) if importlib.util.find_spec(name) else None
  return module.programs(repeats=repeats) if hasattr(module, 'programs') else ([], [])


def peers(config: Any, which: str, repeats: int, threads: int) -> tuple[list[Measurement], list[str]]:
  """Measurements of a room's peer, made by its `peers.py`, and why some could not be made.

  Args:
    config: settings of the room.
    which: the peer's name; 'all' for every one, and those that are not installed are told of; '' for none.
    repeats: timed calls.
    threads: of the peer.

  Raises:
    UserError: if the peer named is unknown or not installed.
  """
  if not which:
    return [], []
  name = f'jaxpapers.{config.method}.peers'
  known = importlib.import_module(name).PEERS if importlib.util.find_spec(name) else {}
  if which != 'all':
    if not known:
      raise UserError(f'{config.method} has no peers to compare with.')
    if which not in known:
      raise UserError(f'Unknown peer {which!r} of {config.method}.{suggest(which, known)}')
    return known[which](config, repeats=repeats, threads=threads), []
  rows, missing = [], []
  for peer in known.values():
    try:
      rows += peer(config, repeats=repeats, threads=threads)
    except UserError as error:
      missing.append(str(error))
  return rows, missing


def ratios(rows: Sequence[Measurement]) -> Iterator[tuple[Measurement, Measurement, float]]:
  """(ours, other, how many times as fast ours is per example) of every row that stands beside one that was measured."""
  # Of a program in several precisions, the first.
  ours = {row.name: row for row in reversed(rows) if not row.beside}
  for row in rows:
    if row.beside in ours:
      own = ours[row.beside]
      yield own, row, (row.seconds / row.examples) / (own.seconds / own.examples)


def as_text(result: Result) -> list[str]:
  """Lines for a terminal."""
  widths = (30, 9, 10, 11, 9, 8, 8, 10)
  lines = [' '.join(f'{c:<{w}}' if i == 0 else f'{c:>{w}}' for i, (c, w) in enumerate(zip(HEAD, widths, strict=True)))]
  for row in result.rows:
    cells = zip(_cells(row, result), widths, strict=True)
    lines.append(' '.join(f'{c:<{w}}' if i == 0 else f'{c:>{w}}' for i, (c, w) in enumerate(cells)))
  lines += [f'{own.name}: {_times(ratio)} as fast as {other.name}' for own, other, ratio in ratios(result.rows)]
  return [*lines, *result.lines, *result.missing]


def as_markdown(results: Sequence[Result], machine: Mapping[str, str], failed: Sequence[str] = ()) -> str:
  """Two tables over all methods: our programs, and what stands beside them."""
  peaks = {
    name: max(r.matmul_peak[name] for r in results if name in r.matmul_peak) for r in results for name in r.matmul_peak
  }
  lines = [
    '# Speed',
    '',
    '; '.join(f'{key} {value}' for key, value in machine.items())
    + '. Measured peaks: '
    + ', '.join(f'{value / 1e9:.0f} GFLOP/s in {name}' for name, value in peaks.items())
    + f', {max((r.bandwidth_peak for r in results), default=0) / 1e9:.1f} GB/s.',
    '',
    _LEGEND,
    '',
    '## Programs',
    '',
    '| method | ' + ' | '.join(HEAD) + ' |',
    '|---|---|' + '---:|' * (len(HEAD) - 1),
  ]
  for result in results:
    lines += [f'| {result.method} | {" | ".join(_cells(row, result))} |' for row in result.rows if not row.beside]
  lines += ['', '## Beside others', '', f'| {" | ".join(_BESIDE)} |', '|---|---|---|---:|---:|---:|']
  for result in results:
    for own, other, ratio in ratios(result.rows):
      cells = (result.method, own.name, other.name, _rate(own), _rate(other), _times(ratio))
      lines.append(f'| {" | ".join(cells)} |')
  told = [f'* {r.method}: {line}.' for r in results for line in r.lines]
  told += [f'* {r.method}: {line}' for r in results for line in r.missing]
  told += [f'* {line}' for line in failed]
  return '\n'.join([*lines, *(['', '## Also', '', *told] if told else [])]) + '\n'


HEAD = ('program', 'compile s', 'step ms', 'examples/s', 'GFLOP', 'MiB', 'matmul', 'bandwidth')
_BESIDE = ('method', 'ours', 'beside', 'ours, examples/s', 'other, examples/s', 'times as fast')
_LEGEND = (
  'A step is the median of its calls. GFLOP counts matrix products and convolutions. `matmul` is the share of the '
  'measured peak of a large matrix product, `bandwidth` the bytes that operations read and write (caches included, the '
  'body of a loop once) as a share of the measured peak of adding one to a large array. Peers ran in the same process '
  'with as many threads.'
)


def _cells(row: Measurement, result: Result) -> tuple[str, ...]:
  peak = result.matmul_peak.get(row.dtype)
  return (
    row.name if row.dtype == 'float32' else f'{row.name}, {row.dtype}',
    '' if row.compile_seconds is None else f'{row.compile_seconds:.1f}',
    f'{row.seconds * 1e3:.{1 if row.seconds >= 0.01 else 3}f}',
    _rate(row),
    f'{row.flops / 1e9:.2f}' if row.flops else '',
    f'{row.memory / 2**20:.0f}' if row.memory else '',
    f'{row.flops / row.seconds / peak:.1%}' if row.flops and peak else '',
    f'{row.traffic / row.seconds / result.bandwidth_peak:.0%}' if row.traffic else '',
  )


def _rate(row: Measurement) -> str:
  rate = row.examples / row.seconds
  return f'{rate:,.0f}' if rate >= 10 else f'{rate:.2f}'


def _times(ratio: float) -> str:
  return f'{ratio:.0f} x' if ratio >= 10 else f'{ratio:.2f} x'
