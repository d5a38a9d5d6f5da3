"""Times the steps of a method: compilation, median step, throughput, FLOPs, memory, share of the matmul peak.

python launch/benchmark.py --config=configs/emo.py:emo1m_224
python launch/benchmark.py --config=configs/emo.py:emo1m_224 --peer=torch
"""

import importlib
import importlib.util
import json

from absl import flags

from jaxpapers.engine import cli
from jaxpapers.engine.errors import UserError, suggest

cli.define_config()
_REPEATS = flags.DEFINE_integer('repeats', 7, 'timed calls of each program')
_PEER = flags.DEFINE_string('peer', '', "another library's model of the same family, timed in the same run, e.g. torch")
_THREADS = flags.DEFINE_integer(
  'threads', 0, 'CPU threads for the peer (0: its default); start with taskset to limit ours'
)
_JSON = flags.DEFINE_string('json', '', 'also write the table to this file')


def main() -> None:
  """Measures every stage's step and first evaluation."""
  import jax

  from jaxpapers.engine import measure, parallel

  config = cli.config()
  room = cli.room(config.method)
  experiment = room.experiment(config)
  if config.parallel != 'jit':
    raise UserError("The benchmark times the jit program: use --config.parallel='jit'.")
  peak = measure.matmul_peak()
  print(f'{config.method} · {config.variant} on {jax.device_count()} x {jax.devices()[0].device_kind}; ', end='')
  print(f'float32 matmul peak {peak / 1e9:.1f} GFLOP/s')
  rows, states = [], {}
  for stage in experiment.stages:
    key = jax.random.key(config.seed)
    batch = jax.device_put(stage.batch(0))
    size = len(jax.tree.leaves(batch)[0])
    state = states[stage.name] = parallel.run_init(stage.init, (key, batch, dict(states)), None)
    rows.append(measure.measure(f'{stage.name} train', stage.step, (state, batch, key), size, _REPEATS.value))
    for evaluation in stage.evaluations[:1]:
      batch = jax.device_put(next(iter(evaluation.batches())))
      size = len(jax.tree.leaves(batch)[0])
      rows.append(
        measure.measure(f'{stage.name} {evaluation.name}', evaluation.step, (state, batch), size, _REPEATS.value)
      )
  rows += _peers(config)
  more, ratios = _programs(config)
  rows += more
  _show(rows, peak)
  print(*ratios, sep='\n', end='\n' if ratios else '')
  if _JSON.value:
    with open(_JSON.value, 'w') as file:
      json.dump([{**vars(row), 'matmul_peak': peak, 'config': config.variant} for row in rows], file, indent=2)


def _peers(config) -> list:
  """Measurements of the named peer, made by the room's `peers.py`."""
  if not _PEER.value:
    return []
  name = f'jaxpapers.{config.method}.peers'
  try:
    peers = importlib.import_module(name).PEERS
  except ModuleNotFoundError as error:
    raise UserError(f'{config.method} has no peers to compare with.') from error
  if _PEER.value not in peers:
    raise UserError(f'Unknown peer {_PEER.value!r} of {config.method}.{suggest(_PEER.value, peers)}')
  return peers[_PEER.value](config, repeats=_REPEATS.value, threads=_THREADS.value)


def _programs(config) -> tuple[list, list[str]]:
  """Measurements of programs that are no stage, and lines that compare them, by the room's `benchmarks.py` if any."""
  name = f'jaxpapers.{config.method}.benchmarks'
  if importlib.util.find_spec(name) is None:
    return [], []
  return importlib.import_module(name).programs(repeats=_REPEATS.value)


def _show(rows: list, peak: float) -> None:
  print(f'{"program":28} {"compile s":>9} {"step ms":>9} {"examples/s":>11} {"GFLOP":>8} {"MiB":>8} {"of peak":>8}')
  for row in rows:
    compile_seconds = f'{row.compile_seconds:.1f}' if row.compile_seconds is not None else ''
    flops = f'{row.flops / 1e9:.2f}' if row.flops else ''
    memory = f'{row.memory / 2**20:.0f}' if row.memory else ''
    share = f'{row.flops / row.seconds / peak:.1%}' if row.flops else ''
    print(
      f'{row.name:28} {compile_seconds:>9} {row.seconds * 1e3:>9.1f} {row.examples / row.seconds:>11.1f} '
      f'{flops:>8} {memory:>8} {share:>8}'
    )


if __name__ == '__main__':
  cli.main(main)
