"""Epochs of teacher, vanilla student and RELIANT, one seed and many, and PyTorch Geometric's GCN: ratios in one run.

    taskset -c 0 python -m jaxpapers.reliant.throughput --data bail --folder FOLDER --peer

Times are processor seconds of the whole process, which a busy machine inflates less than wall time; programs take
turns, so that what disturbs one disturbs all. Pin it to as many cores as the peer may have threads.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxpapers.engine.allocator import keep_freed_memory
from jaxpapers.reliant import data, model, peers, replicas, training
from jaxpapers.reliant.problem import make_problem, stacked
from jaxpapers.reliant.selection import Selection

Calls = dict[str, Callable[[], Any]]


def stateful(step: Callable[..., Any], state: Any, *arguments: Any) -> Callable[[], Any]:
  """A call of `step(state, *arguments)` -> state, compiled, that goes on from where the last one stopped.

  Arguments, and no constants of the program: the compiler would fold what depends on nothing else.
  """
  compiled = jax.jit(step, donate_argnums=0)
  held = [state]

  def call():
    held[0] = compiled(held[0], *arguments)
    return held[0]

  return call


def programs(loaded: data.Dataset, seeds: int, ways: Sequence[str] = ('map', 'vmap')) -> Calls:
  """Calls of one epoch (with validation, as in training) and of evaluations, by name.

  Args:
    loaded: the graph; students replace its last two columns by proxies, so that both see inputs of one width.
    seeds: of the programs that train several.
    ways: how those arrange them; see `replicas.Grid`.
  """
  problem = jax.device_put(
    make_problem(
      loaded.x, loaded.senders, loaded.receivers, loaded.labels, loaded.sensitive, loaded.splits, metrics=('sp',)
    )
  )
  nodes, key = len(loaded.x), jax.random.key(0)
  knobs = training.Knobs(jnp.float32(1000.0), jnp.int32(0))
  common = {'classes': 2, 'nodes': nodes, 'selection': Selection()}
  teacher, student = model.gcn(), model.plp()
  taught = training.teacher_training(teacher, training.coupled_adam(0.01, 1e-3), **common)
  state = jax.jit(taught.init)(key, problem)
  targets = jax.jit(lambda p, graph: training.targets_of(teacher.apply(p, graph, None)))(state.params, problem.graph)
  targets = targets._replace(log_probabilities=None, embedding=None)
  evaluate = jax.jit(lambda p, graph: teacher.apply(p, graph, None).logits)
  copy = jax.tree.map(jnp.copy, state.params)
  calls: Calls = {
    'teacher epoch': stateful(_epoch(taught, knobs), state, problem),
    'teacher eval': lambda: evaluate(copy, problem.graph),
  }
  for name, kind in (('vanilla epoch', 'none'), ('RELIANT epoch', 'learned')):
    inputs = training.Input(kind, 'replace_last')
    trained = training.cpf_training(student, training.coupled_adam(0.01, 0.01), inputs=inputs, **common)
    state = jax.jit(trained.init)(key, problem, targets)
    calls[name] = stateful(_epoch(trained, knobs), state, problem)
  judge = jax.jit(lambda p, graph: training.student_outputs(student, inputs, p, graph).logits)
  params = jax.tree.map(jnp.copy, state.params)
  calls['student eval'] = lambda: judge(params, problem.graph)
  batch = jax.device_put(stacked([problem]))
  for how in ways:
    grid = replicas.Grid(seeds, [replicas.Point('sp', 1000.0)], ('sp',), how)
    parts = replicas.replicated(trained, grid, 1, lambda earlier, seen, seed: earlier)
    many = jax.jit(parts.init)(key, batch, targets)
    calls[f'RELIANT epoch, {seeds} seeds, {how}'] = stateful(functools.partial(_many, parts), many, batch)
  return calls


def _epoch(trained: training.Training, knobs: training.Knobs) -> Callable[[Any, Any], Any]:
  return lambda state, problem: trained.epoch(state, problem, jax.random.key(0), knobs)[0]


def _many(parts: Any, state: Any, batch: Any) -> Any:
  return parts.step(state, batch, jax.random.key(0))[0]


def measured(calls: Mapping[str, Callable[[], Any]], repeats: int, clock: Callable[[], float]) -> dict[str, float]:
  """Median seconds of every call by `clock`. They take turns; the first round, which compiles, does not count."""
  times: dict[str, list[float]] = {name: [] for name in calls}
  for turn in range(repeats + 1):
    for name, call in calls.items():
      started = clock()
      jax.block_until_ready(call())
      if turn:
        times[name].append(clock() - started)
  return {name: statistics.median(values) for name, values in times.items()}


def ratios(seconds: Mapping[str, float], seeds: int) -> dict[str, float]:
  """The comparisons that matter, from seconds by name."""
  found = {
    'RELIANT epoch / vanilla epoch': seconds['RELIANT epoch'] / seconds['vanilla epoch'],
    'student eval / vanilla epoch without it': seconds['student eval']
    / (seconds['vanilla epoch'] - seconds['student eval']),
  }
  for how in ('map', 'vmap'):
    name = f'RELIANT epoch, {seeds} seeds, {how}'
    if name in seconds:
      found[f'{seeds} seeds in one program ({how}) / {seeds} single ones'] = seconds[name] / (
        seeds * seconds['RELIANT epoch']
      )
  for form in ('edges', 'CSR'):
    for what in ('epoch', 'eval'):
      peer = f'PyG GCN {what}, {form}'
      if peer in seconds:
        found[f'{peer} / teacher {what}'] = seconds[peer] / seconds[f'teacher {what}']
  return found


def main(argv: Sequence[str] | None = None) -> None:
  """Measures, and prints seconds and ratios."""
  parser = argparse.ArgumentParser(prog='python -m jaxpapers.reliant.throughput', description=__doc__.split('\n')[0])
  parser.add_argument('--data', default='blockmodel', help=f'one of {", ".join(data.NAMES[:-1])}')
  parser.add_argument('--folder', default='', help='where its files lie')
  parser.add_argument('--seeds', type=int, default=8)
  parser.add_argument('--ways', nargs='*', default=['map', 'vmap'], choices=['map', 'vmap'])
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--peer', action='store_true', help="PyTorch Geometric's GCN too")
  parser.add_argument('--threads', type=int, default=0, help='of the peer; 0: its default')
  args = parser.parse_args(argv)
  keep_freed_memory()
  loaded = data.load(args.data, args.folder)
  calls = programs(loaded, args.seeds, args.ways)
  if args.peer:
    calls |= peers.geometric_gcn(loaded, threads=args.threads)
  clock = time.process_time if jax.default_backend() == 'cpu' else time.perf_counter
  seconds = measured(calls, args.repeats, clock)
  print(f'{args.data}: {len(loaded.x):,} nodes, {len(loaded.senders):,} edges, on {jax.devices()[0].device_kind}')
  for name, value in seconds.items():
    print(f'{name:48} {value * 1e3:10.1f} ms')
  for name, value in ratios(seconds, args.seeds).items():
    print(f'{name:48} {value:10.2f}')


if __name__ == '__main__':
  main()
