"""Compares policies, costs, schedules and the optimal policy of jaxpapers.predictive_exit with references.

Which kind a file is, its entries say.
"""

import functools
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.predictive_exit import dvfs, energy, engines, mdp, platforms, policies, schedules, simulate
from jaxpapers.predictive_exit.scores import score
from jaxpapers.predictive_exit.tables import Costs
from tests.golden import Check, UnknownKindError, group, load


def run(path: Path) -> Iterable[Check]:
  data, meta = load(path)
  with jax.enable_x64(True):
    if 'ratios' in meta:
      yield from levels(data, meta)
    elif 'kinds' in meta:
      yield from walks(data, meta)
    elif 'input/hw/f' in data:
      yield from energies(data, meta)
    elif 'kappa' in meta:
      yield from optimal(data, meta)
    elif any(name.startswith('output/exit_theta_') for name in data):
      yield from edge_cases(data)
    else:
      raise UnknownKindError(f'{path.name} is no file of policies, costs or schedules')


def levels(data: dict, meta: dict) -> Iterable[Check]:
  yield Check('TX2 GPU', platforms.TX2_GPU_HZ, data['input/gpu_hz'], 0)
  yield Check('TX2 CPU', platforms.TX2_CPU_HZ / 1e3, data['input/cpu_khz'], 0)
  lists = {'gpu': data['input/gpu_hz'], 'cpu': data['input/cpu_khz']}
  for exits in meta['exits']:
    remain, jump = exits - np.arange(exits)[:, None], np.arange(exits + 1)[None]
    valid = (jump >= 1) & (jump <= remain)
    for name, ratio in ((n, r) for n in lists for r in meta['ratios']):
      got = np.where(valid, dvfs.stretch_level(lists[name], remain, jump, ratio), -1)
      yield Check(f'{exits} {name} x{ratio}', got, data[f'output/{exits}/{name}/x{ratio}'], 0)


def edge_cases(data: dict) -> Iterable[Check]:
  scores = score('max_prob')(jnp.asarray(data['input/logits']))
  yield Check('score', scores, data['output/score_max_prob'], 1e-15)
  for name in group(data, 'output'):
    if name.startswith('exit_theta_'):
      walk = policies.classic(scores, float(name.removeprefix('exit_theta_')))
      yield Check(name, walk.exit, data[f'output/{name}'], 0)
      yield Check('visited', walk.visited, data['output/visited'], 0)


@functools.partial(jax.jit, static_argnames=('q', 'bins', 'min_count', 'ridge', 'z'))
def _all_walks(calibration, scores, theta, allowed, q, bins, min_count, ridge, z):
  table = engines.fit_table(calibration, theta, q, bins, min_count)
  curve, weights = engines.fit_ramp(calibration), engines.fit_linear(calibration, theta, ridge)
  on_calibration = policies.classic(calibration, theta).exit
  start = policies.start_exit(on_calibration, scores.shape[1], z)
  steps = {
    'table': engines.table_steps(table, scores),
    'ramp': engines.ramp_steps(curve, scores, theta),
    'linear': engines.linear_steps(weights, scores),
    'next': engines.next_steps(scores),
  }
  walks = {
    'classic': policies.classic(scores, theta),
    'classic_coarse': policies.classic(scores, theta, allowed),
    'classic_from_start': policies.classic(scores, theta, start=start),
  }
  for name, values in steps.items():
    walks[f'predictive_{name}'] = policies.predictive(scores, theta, values)
    walks[f'predictive_{name}_from_start'] = policies.predictive(scores, theta, values, start)
  taken = on_calibration.astype(calibration.dtype)
  gauss = jnp.stack([jnp.mean(taken), jnp.std(taken), start])
  return walks, table, curve, weights, steps['ramp'], gauss


def walks(data: dict, meta: dict) -> Iterable[Check]:
  segments, heads = data['input/macs_seg'], data['input/macs_head']
  costs = Costs(segments, np.zeros_like(segments), heads, np.zeros_like(heads))
  for kind in meta['kinds']:
    given, want = group(data, f'input/{kind}'), group(data, f'output/{kind}')
    calibration, scores = (score(kind)(jnp.asarray(data[f'input/logits_{part}'])) for part in ('calib', 'test'))
    yield Check(f'{kind} score', scores, want['score_test'], 1e-12)
    got, table, curve, weights, ramp, gauss = _all_walks(
      calibration,
      scores,
      given['theta'],
      given['allowed_coarse'],
      meta['table_quantile'],
      meta['bins'],
      meta['min_count'],
      meta['ridge'],
      meta['gauss_z'],
    )
    yield Check(f'{kind} edges', table.edges, given['edges'], 1e-12)
    yield Check(f'{kind} table', table.steps, want['table_step'], 0)
    yield Check(f'{kind} counts', table.counts, want['table_count'], 0)
    yield Check(f'{kind} ramp', curve, want['ramp_curve'], 1e-12)
    yield Check(f'{kind} ramp steps', ramp[:, :-1], want['ramp_step_all'][:, :-1], 0)
    yield Check(f'{kind} linear', weights, want['linear_w'], 1e-9)
    yield Check(f'{kind} start', gauss, want['gauss'], 1e-12)
    for name in {key.split('/')[0] for key in want if key.endswith('/exit')}:
      walk, expected = got[name], group(want, name)
      label = f'{kind} {name}'
      yield Check(f'{label} exit', walk.exit, expected['exit'], 0)
      yield Check(f'{label} visited', walk.visited, expected['visited'], 0)
      yield Check(f'{label} predictions', walk.predictions, expected['predictions'], 0)
      macs = policies.walk_macs(walk, costs, meta['engine_macs'])
      yield Check(f'{label} macs', macs, expected['macs'], 1e-12, relative=True)
      right = policies.accuracy(data['input/logits_test'], data['input/y_test'], walk.exit)
      yield Check(f'{label} accuracy', right, expected['accuracy'], 1e-12)


def _platform(data: dict) -> tuple[energy.Platform, str]:
  hw = group(data, 'input/hw')
  overlap = str(hw.pop('overlap'))
  return energy.Platform(**{name: np.asarray(value, np.float64) for name, value in hw.items()}), overlap


_RUNS = {
  'hard': ('hard', 'lowest'),
  'soft': ('soft', 'lowest'),
  'hard_planned': ('hard', 'lowest'),
  'hard_min_energy': ('hard', 'min_energy'),
  'soft_min_energy': ('soft', 'min_energy'),
}


def energies(data: dict, meta: dict) -> Iterable[Check]:
  hw, overlap = _platform(data)
  if meta.get('platform') in platforms.SOURCES:
    known = platforms.platform(meta['platform'])
    for name, value in hw._asdict().items():
      yield Check(f'{meta["platform"]} {name}', getattr(known, name), value, 1e-12, relative=True)
  costs = Costs(*(data[f'input/{what}_{unit}'] for unit in ('seg', 'head') for what in ('macs', 'bytes')))
  tables = jax.jit(energy.cost_tables, static_argnames=('engine_macs', 'overlap'))(hw, costs, overlap=overlap)
  want = group(data, 'output')
  priced = {
    'seg_energy': tables.segment_energy,
    'seg_time': tables.segment_time,
    'head_energy': tables.head_energy,
    'head_time': tables.head_time,
    'engine_energy': tables.engine_energy,
    'engine_time': tables.engine_time,
    'switch_time_energy': jnp.stack([tables.switch_time, tables.switch_energy], axis=-1),
    'full_network_energy': energy.plain_energy(tables)[-1],
  }
  for name, value in priced.items():
    yield Check(name, value, want[name], 1e-9, relative=True)
  for name in sorted({key.split('/')[0] for key in group(data, 'input') if key.startswith('sched')}):
    yield from _schedules(name, group(data, f'input/{name}'), group(want, name))
  yield from _runs(data, want, tables)


@jax.jit
def _solve(problem: schedules.Problem, limit):
  best, points = schedules.enumerate_schedules(problem, limit)
  planned, _ = schedules.plan(problem, limit, 4000)
  count, steps = problem.energy.shape[1], problem.energy.shape[0]
  constant = jnp.broadcast_to(jnp.arange(count)[:, None], (count, steps))
  single_energy, single_time = schedules.evaluate(problem, constant)
  return best, points, planned, schedules.lagrangian_bound(problem, limit), jnp.stack([single_time, single_energy], -1)


def _schedules(name: str, given: dict, want: dict) -> Iterable[Check]:
  switch = given['switch']
  problem = schedules.problem(
    given['energy'], given['time'], switch[..., 0], switch[..., 1], jnp.asarray(given['start_opp'])
  )
  best, points, planned, bound, single = _solve(problem, given['deadline'])
  yield Check(f'{name} optimum', best, want['optimal_energy'], 1e-9, relative=True)
  yield Check(f'{name} points', points, want['optimal_opp'], 0)
  yield Check(f'{name} dynamic programme', planned, want['dp4000_energy'], 1e-9, relative=True)
  yield Check(f'{name} bound below the optimum', bound <= want['optimal_energy'] * (1 + 1e-12), np.True_, 0)
  yield Check(f'{name} bound', max(want['dual_bound'] - bound, 0.0), np.float64(0), 1e-6)
  yield Check(f'{name} single frequency', single, want['single_time_energy'], 1e-9, relative=True)


@jax.jit
def _walks_of(scores, theta, curve):
  return (
    policies.classic(scores, theta),
    policies.predictive(scores, theta, engines.ramp_steps(curve, scores, theta)),
  )


@functools.partial(jax.jit, static_argnames=('mode', 'choice'))
def _guarded(tables, walk, limit, start, mode, choice):
  return simulate.deadline_safe(tables, walk, limit, start, mode, choice)


def _runs(data: dict, want: dict, tables: energy.CostTables) -> Iterable[Check]:
  classic, walk = _walks_of(data['input/score'], data['input/theta'], data['input/ramp_curve'])
  top = tables.segment_time.shape[1] - 1
  fixed = jax.jit(simulate.fixed_point)
  run = fixed(tables, classic, top)
  yield Check('classic exit', classic.exit, want['classic/exit'], 0)
  yield Check('classic energy', run.energy, want['classic/energy_fmax'], 1e-9, relative=True)
  yield Check('classic time', run.time, want['classic/time_fmax'], 1e-9, relative=True)
  for name, value in (('exit', walk.exit), ('visited', walk.visited), ('predicted_exit', walk.predicted)):
    yield Check(f'predictive {name}', value, want[f'predictive/{name}'], 0)
  for number in sorted(key.removeprefix('deadline') for key in group(data, 'input') if key.startswith('deadline')):
    limit = data[f'input/deadline{number}']
    planned = dvfs.planned_point(tables, limit)
    yield Check(f'd{number} planned start', planned, want[f'worst_case_opp{number}'], 0)
    for name in sorted({key.split('/')[0] for key in group(want, f'predictive/d{number}')}):
      if name == 'max':
        run = fixed(tables, walk, top)
      else:
        run = _guarded(tables, walk, limit, planned if name.endswith('planned') else top, *_RUNS[name])
      expected = group(want, f'predictive/d{number}/{name}')
      label = f'd{number} {name}'
      yield Check(f'{label} energy', run.energy, expected['energy'], 1e-9, relative=True)
      yield Check(f'{label} time', run.time, expected['time'], 1e-9, relative=True)
      yield Check(f'{label} switches', run.switches, expected['switches'], 0)
      yield Check(f'{label} points', run.point, expected['opp'], 0)


def optimal(data: dict, meta: dict) -> Iterable[Check]:
  scores, theta, edges = data['input/score'], data['input/theta'], data['input/edges']
  yield Check('score', score('max_prob')(jnp.asarray(data['input/logits'])), scores, 1e-12)
  yield Check('edges', engines.score_edges(scores, meta['bins']), edges, 1e-12)
  tables = energy.CostTables(
    *(jnp.asarray(data[f'input/{part}_{what}']) for part in ('seg', 'head') for what in ('time', 'energy')),
    *(jnp.zeros(len(meta['opps'])),) * 2,
    jnp.asarray(data['input/switch_time']),
    jnp.asarray(data['input/switch_energy']),
  )
  transitions = jax.jit(mdp.chain)(scores, theta, edges, meta['kappa'])
  yield Check('chain', transitions, data['output/chain'], 1e-12)
  solve = jax.jit(mdp.bellman, static_argnames=('ticks', 'fixed_next'))
  policy = solve(transitions, tables, data['input/deadline'], ticks=int(data['input/n_ticks']))
  classic = solve(transitions, tables, data['input/deadline'], ticks=int(data['input/n_ticks']), fixed_next=True)
  top = len(meta['opps']) - 1
  yield Check('value', policy.value, data['output/value'], 1e-9, relative=True)
  yield Check('value at the start', mdp.start_value(policy, top), data['output/value_start'], 1e-9, relative=True)
  every = data['output/value_start_visit_every_exit']
  yield Check('value visiting every exit', mdp.start_value(classic, top), every, 1e-9, relative=True)
  walk, run = jax.jit(mdp.run)(policy, tables, scores, theta, edges, top)
  got = jnp.stack([run.energy, run.time, walk.exit, jnp.sum(walk.visited, axis=1)], axis=-1)
  yield Check('run', got, data['output/run_energy_time_exit_heads'], 1e-9, relative=True)
