"""Times the steps of a method: compilation, median step, throughput, FLOPs, memory, shares of this machine's peaks.

python launch/benchmark.py --config=configs/emo.py:emo1m_224
python launch/benchmark.py --config=configs/emo.py:emo1m_224 --peer=torch
python launch/benchmark.py --all                      # every method beside every peer that is installed
python launch/benchmark.py --all --only=emo,drums --threads=1

With --all, benchmark.md and benchmark.json in --out hold the table; on an accelerator it has float32 and bfloat16.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from absl import flags

from jaxpapers.engine import cli
from jaxpapers.engine.errors import UserError, suggest

cli.define_config(unless='all')
_ALL = flags.DEFINE_bool('all', False, 'all methods, each in a process of its own')
_ONLY = flags.DEFINE_list('only', [], 'with --all: these methods')
_OUT = flags.DEFINE_string('out', 'runs/benchmark', 'with --all: folder of the table')
_REPEATS = flags.DEFINE_integer('repeats', 7, 'timed calls of each program')
_PEER = flags.DEFINE_string('peer', '', 'what is timed beside it in the same run, e.g. torch; all: every one installed')
_THREADS = flags.DEFINE_integer('threads', 0, 'CPU threads of ours and of the peer (0: one a core)')
_STAGES = flags.DEFINE_list('stages', [], 'time only these stages')
_DTYPES = flags.DEFINE_list('dtypes', [], 'values of config.dtype to time the stages in; its own if empty')
_PROGRAMS = flags.DEFINE_bool('programs', True, 'time also what the room compares by itself')
_JSON = flags.DEFINE_string('json', '', 'also write the table to this file')
_ACCELERATED = flags.DEFINE_list('accelerated_dtypes', [], 'as --dtypes, where there is an accelerator')


def main() -> None:
  """Measures one setting, or all."""
  if _REPEATS.value < 1:
    raise UserError(f'--repeats={_REPEATS.value}: at least 1.')
  if _ALL.value:
    _everything()
  else:
    _one()


def _one() -> None:
  """Every stage's step and first evaluation, peers, and the room's own comparisons."""
  threads = _limit_threads()
  import jax

  from jaxpapers.engine import benchmarks, measure

  config = cli.config()
  room = cli.room(config.method)
  if config.parallel != 'jit':
    raise UserError("The benchmark times the jit program: use --config.parallel='jit'.")
  wanted = _DTYPES.value or [config.dtype]
  if _ACCELERATED.value and jax.default_backend() != 'cpu':
    wanted = _ACCELERATED.value
  peaks = {name: measure.matmul_peak(name) for name in dict.fromkeys(['float32', *wanted])}
  bandwidth = measure.bandwidth_peak()
  device = f'{jax.device_count()} x {jax.devices()[0].device_kind}'
  described = ', '.join(f'{name} matmul peak {peak / 1e9:.1f} GFLOP/s' for name, peak in peaks.items())
  print(f'{config.method} · {config.variant} on {device}; {described}, memory {bandwidth / 1e9:.1f} GB/s')
  rows = []
  for dtype in wanted:
    with config.unlocked():
      config.dtype = dtype
    rows += benchmarks.stage_rows(room.experiment(config), config.seed, _REPEATS.value, _STAGES.value, dtype)
  with config.unlocked():
    config.dtype = wanted[0]
  found, lines = benchmarks.programs(config.method, _REPEATS.value) if _PROGRAMS.value else ([], [])
  beside, missing = benchmarks.peers(config, _PEER.value, _REPEATS.value, threads)
  rows += found + beside
  result = benchmarks.Result(config.method, config.variant, device, peaks, bandwidth, rows, lines, missing)
  print(*benchmarks.as_text(result), sep='\n')
  if _JSON.value:
    Path(_JSON.value).write_text(json.dumps(result.to_json(), indent=2) + '\n')


def _limit_threads() -> int:
  """Threads for a peer, after this process and so XLA was limited to as many cores."""
  if not hasattr(os, 'sched_setaffinity'):
    return _THREADS.value
  cores = sorted(os.sched_getaffinity(0))
  if _THREADS.value > len(cores):
    raise UserError(f'--threads={_THREADS.value}: there are {len(cores)} cores.')
  if _THREADS.value:
    cores = cores[: _THREADS.value]
    os.sched_setaffinity(0, cores)
  return len(cores)


def _everything() -> None:
  """Every room's cases in turn, and the table of all."""
  from jaxpapers.engine import benchmarks
  from jaxpapers.engine.machine import described

  root, out = Path(__file__).resolve().parent.parent, Path(_OUT.value).resolve()
  known = sorted(path.stem for path in (root / 'configs').glob('*.py') if (root / 'jaxpapers' / path.stem).is_dir())
  for slug in _ONLY.value:
    if slug not in known:
      raise UserError(f'--only={slug} names no method.{suggest(slug, known)}')
  out.mkdir(parents=True, exist_ok=True)
  results, failed = [], []
  for slug in _ONLY.value or known:
    for number, case in enumerate(benchmarks.cases(slug)):
      name = f'{slug}-{number}'
      print(f'{slug} · {case.variant} ...', flush=True)
      (out / f'{name}.json').unlink(missing_ok=True)
      arguments = [
        str(root / 'launch' / 'benchmark.py'),
        f'--config={root / "configs" / f"{slug}.py"}:{case.variant}',
        *(f'--config.{override}' for override in case.overrides),
        f'--stages={",".join(case.stages)}',
        f'--accelerated_dtypes={",".join(case.dtypes)}',
        f'--programs={number == 0}',
        '--peer=all',
        f'--repeats={_REPEATS.value}',
        f'--threads={_THREADS.value}',
        f'--json={out / f"{name}.json"}',
      ]
      with (out / f'{name}.txt').open('w') as log:
        code = subprocess.run(
          [sys.executable, *arguments], stdout=log, stderr=subprocess.STDOUT, check=False
        ).returncode
      if code:
        failed.append(f'{slug} · {case.variant} ended with exit code {code}, see {name}.txt')
        print(f'  {failed[-1]}', flush=True)
        continue
      results.append(benchmarks.Result.from_json(json.loads((out / f'{name}.json').read_text())))
      print(*(f'  {line}' for line in benchmarks.as_text(results[-1])), sep='\n', flush=True)
      _write(out, results, described(_THREADS.value), failed)
  _write(out, results, described(_THREADS.value), failed)
  print(out / 'benchmark.md')
  if failed:
    raise UserError(f'{len(failed)} of the benchmarks failed: {"; ".join(failed)}.')


def _write(out: Path, results: list, machine: dict[str, str], failed: list[str]) -> None:
  from jaxpapers.engine import benchmarks

  devices = dict.fromkeys(result.device for result in results)
  machine = {**machine, 'devices': ', '.join(devices)}
  (out / 'benchmark.md').write_text(benchmarks.as_markdown(results, machine, failed))
  whole = {'machine': machine, 'results': [result.to_json() for result in results], 'failed': failed}
  (out / 'benchmark.json').write_text(json.dumps(whole, indent=2) + '\n')


if __name__ == '__main__':
  cli.main(main)
