"""The part of the report about policies, energy and deadlines (extension): tables, and pictures of `policy_figures`."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.predictive_exit import energy, platforms, policies, policy_figures, policy_study, scores, sweep
from jaxpapers.predictive_exit.energy import Platform
from jaxpapers.predictive_exit.policy_study import Study
from jaxpapers.predictive_exit.tables import Array, Costs, ExitTable, check_costs, check_table

# The paper's headline, in per cent: (computation against no exits, energy against no exits, both against early exit).
HEADLINE = {'computation': (96.2, 12.8), 'energy': (72.9, 37.6)}
_REPORTED = 1.25  # the deadline of pictures and of the headline, if it is among the deadlines


def policy_report(
  page: Any,
  networks: Sequence[tuple[ExitTable, ExitTable]],
  costs: Costs,
  *,
  platform: str = 'rk3399_big',
  constants: str = '',
  alphas: Sequence[float] = (1.0, 1.25, 1.5, 2.0),
  drop: float = 0.005,
  grid: int = 60,
  head: float | None = 0.25,
  heads: Sequence[float] = (0.02, 0.1, 0.25, 0.5),
  scale: float = 1.0,
  book: tuple[Array, Array] | None = None,
) -> dict[str, policy_study.Outcome]:
  """Every policy with every frequency rule, thresholds chosen on calibration data, numbers of test data.

  Args:
    page: an engine.report.Report.
    networks: (calibration, test) tables of every trained network.
    costs: true work of segments and heads, of all networks.
    platform: a name of `platforms.SOURCES`, or a CSV file with header `f_mhz,volt`.
    constants: 'name=value,name=value' for the platform.
    alphas: deadlines in times of the network without exits at full speed, >= 1.
    drop: accuracy that may be given up on the calibration set against the network without exits.
    grid: thresholds that are tried.
    head: cost of a head in mean segments for everything about energy; None for the true one.
    heads: costs of a head that the comparison of computation goes through.
    scale: all work is multiplied by this.
    book: (segments [exits], heads [exits]) of the authors' cost book, shown beside the true one.

  Returns:
    Outcomes by policy, [alphas] each, means over the networks.

  Raises:
    ValueError: naming what cannot be, before anything is written.
  """
  for calibration, test in networks:
    check_table(calibration, 'calibration')
    check_table(test, 'test')
  check_costs(costs, np.shape(networks[0][0].logits)[1])
  if not len(alphas) or min(alphas) < 1:
    raise ValueError(
      f'Deadlines are at least 1, the time of the network without exits at full speed, not {tuple(alphas)}.'
    )
  p = platforms.load(platform, constants)
  with jax.enable_x64(True):
    work = Costs(*(scale * np.asarray(x, np.float64) for x in costs))
    true_head = float(np.mean(work.head_macs[:-1]) / np.mean(work.segment_macs))
    priced = work if head is None else jax.tree.map(np.asarray, policy_study.with_head_ratio(work, head))
    tables = [tuple(map(_scored, pair)) for pair in networks]
    found = [_study(p, priced, *pair, np.asarray(alphas, np.float64), drop, grid) for pair in tables]
    ratios = np.unique([*heads, true_head])
    spread = jax.jit(policy_study.by_head_cost)
    by_head = [jax.tree.map(np.asarray, spread(study, work, ratios)) for study in found]
    by_energy = _by_energy(p, priced, found[0])
    official = None if book is None else _in_book(found, book)
    dear = _cost_share(p, priced)
  outcomes = jax.tree.map(lambda *x: np.mean(x, axis=0), *(study.outcomes for study in found))
  at = min(range(len(alphas)), key=lambda i: abs(alphas[i] - _REPORTED))
  name = platform.rsplit('/', 1)[-1]
  page.heading(f'Extension: policies, energy and deadlines, modelled for {name}')
  _source(page, platform, priced, dear, head, scale)
  _outcome_table(page, outcomes, alphas, len(networks))
  _head_table(page, by_head, ratios, true_head)
  if official is not None:
    _book_table(page, found, official)
  _headline(page, found, outcomes, alphas, at)
  _figures(page, p, priced, name, found, outcomes, by_head, ratios, true_head, by_energy, alphas, at)
  page.results(
    extension={
      'alphas': list(alphas),
      'outcomes': {key: {k: v.tolist() for k, v in o._asdict().items()} for key, o in outcomes.items()},
    }
  )
  return outcomes


def _scored(table: ExitTable) -> sweep.Scored:
  return sweep.scored(ExitTable(np.asarray(table.logits, np.float64), np.asarray(table.labels)), scores.max_prob)


@functools.partial(jax.jit, static_argnums=(6,))
def _compiled(p, costs, calibration, test, alphas, drop, grid):
  return policy_study.study(p, costs, calibration, test, alphas, drop, grid)


def _study(*args) -> Study:
  return jax.tree.map(np.asarray, _compiled(*args))


def _by_energy(p: Platform, costs: Costs, found: Study) -> dict[str, sweep.Curve]:
  """The curves with energy at the highest frequency in the place of multiply-adds."""
  t = energy.cost_tables(p, costs)
  joules = Costs(t.segment_energy[:, -1], costs.segment_bytes, t.head_energy[:, -1], costs.head_bytes)
  return {
    name: curve._replace(compute=np.asarray(sweep.compute_of(curve.shares, joules, t.engine_energy[-1])))
    for name, curve in found.curves.items()
  }


def _in_book(found: Sequence[Study], book: tuple[Array, Array]) -> dict[str, float]:
  """Mean computation at the chosen thresholds in another cost book, relative to that book's network without exits."""
  segments, heads = (np.asarray(x, np.float64) for x in book)
  other = Costs(segments, np.zeros_like(segments), heads, np.zeros_like(heads))
  return {
    name: float(np.mean([sweep.compute_of(_chosen(study, name).shares, other, 0.0) for study in found]))
    for name in found[0].curves
  }


def _cost_share(p: Platform, costs: Costs) -> float:
  """Time of a head relative to a mean segment, at full speed."""
  tables = energy.cost_tables(p, costs)
  return float(jnp.mean(tables.head_time[:-1, -1]) / jnp.mean(tables.segment_time[:, -1]))


def _source(page: Any, platform: str, costs: Costs, dear: float, head: float | None, scale: float) -> None:
  known = platforms.SOURCES.get(platform)
  if known is None:
    origin = f"Operating points from the file {platform}; constants are the user's, else those of rk3399_big."
  else:
    origin = (
      f'{known.what}: operating points from {known.points_from}; published constants: '
      f'{", ".join(known.published) or "none"}; illustrative: {", ".join(platforms.illustrative(platform))}.'
    )
  assumed = 'Heads cost what they do' if head is None else f'Heads are made to cost {head:g} of a mean segment'
  page.text(
    f'{origin} {assumed}: {dear:.1%} of its time at full speed. All work is multiplied by {scale:g}. Accuracy is '
    'measured, multiply-adds are counted from shapes, time and energy are modelled; nothing was measured on a board.'
  )


def _outcome_table(page: Any, outcomes: Mapping[str, Any], alphas: Sequence[float], count: int) -> None:
  rows = [
    [
      name,
      *(f'{e:.3f}' + (f' ({m:.0%} late)' if m else '') for e, m in zip(o.energy, o.misses, strict=True)),
      ' / '.join(f'{x:.3f}' for x in (np.min(o.accuracy), np.max(o.accuracy))),
      float(np.mean(o.heads)),
    ]
    for name, o in outcomes.items()
  ]
  page.table(
    ['policy, frequency rule', *(f'deadline {a:g}' for a in alphas), 'accuracy, least / most', 'heads'],
    rows,
    f'Energy of the test set relative to the network without exits at full speed, mean over {count} networks; share of '
    'missed deadlines in brackets. Hard modes never miss where the worst case fits the deadline at the starting '
    'frequency; at a tight deadline with dear heads it does not fit, and then they can.',
  )


def _head_table(page: Any, by_head: Sequence[Mapping], ratios: np.ndarray, true_head: float) -> None:
  rows = [
    [name, *(float(np.mean([f[name][1][i] for f in by_head])) for i in range(len(ratios)))] for name in by_head[0]
  ]
  labels = [f'{r:.3g}' + (' (this network)' if r == true_head else '') for r in ratios]
  page.table(
    ['policy', *labels],
    rows,
    'Multiply-adds relative to the network without exits, for heads of that many mean segments, at equal calibration '
    'accuracy.',
  )

  def best(kind: str) -> np.ndarray:
    return np.mean([np.min([v[1] for k, v in f.items() if k.startswith(kind)], axis=0) for f in by_head], axis=0)

  classic, forecast = best('classic'), best('predictive')
  losing = [f'{r:.2g}' for r, c, q in zip(ratios, classic, forecast, strict=True) if q >= c]
  page.text(
    f'Best against best, forecasting does not pay here at head costs {", ".join(losing)} of a segment.'
    if losing
    else 'Best against best, forecasting pays here at every head cost that was tried.'
  )


def _book_table(page: Any, found: Sequence[Study], official: Mapping[str, float]) -> None:
  rows = []
  for name, other in official.items():
    true = float(np.mean([_chosen(s, name).compute for s in found]))
    rows.append([name, f'{1 - true:.1%}', f'{1 - other:.1%}'])
  page.table(
    ['policy', 'saved, true multiply-adds', "saved, the authors' book"],
    rows,
    "The same walks in two cost books. The authors' counts no taps of a convolution and mixes shapes.",
  )


def _chosen(study: Study, name: str) -> sweep.Curve:
  at = int(
    np.argmin(np.abs(np.where(np.isinf(study.thetas), 1e30, study.thetas) - min(study.chosen.theta[name], 1e30)))
  )
  return jax.tree.map(lambda x: x[at], study.curves[name])


def _headline(page: Any, found: Sequence[Study], outcomes: Mapping, alphas: Sequence[float], at: int) -> None:
  classic, forecast = (np.mean([_chosen(s, name).compute for s in found]) for name in ('classic', 'predictive'))
  slow, hard, best, schedule = (
    outcomes[name].energy[at]
    for name in (
      'classic, lowest safe frequency',
      'predictive, hard',
      'optimal joint policy (mdp), hard',
      'classic from start, fixed schedule',
    )
  )
  page.table(
    ['saving', 'paper, up to', 'here', 'what it is here'],
    [
      ['computation, against no exits', '96.2 %', f'{1 - forecast:.1%}', 'counted'],
      ['energy, against no exits', '72.9 %', f'{1 - hard:.1%}', f'modelled, deadline {alphas[at]:g}'],
      ['computation, against early exit', '12.8 %', f'{1 - forecast / classic:.1%}', 'counted, all exits allowed'],
      ['energy, against early exit', '37.6 %', f'{1 - hard / slow:.1%}', 'modelled, early exit at its safe frequency'],
      ['energy, against a fixed schedule', 'not given', f'{1 - hard / schedule:.1%}', 'modelled'],
      ['energy, optimal policy against early exit', 'not given', f'{1 - best / slow:.1%}', 'modelled'],
    ],
    "The paper's numbers are the largest over its networks and data, which are not these; whether they were measured "
    'on a board could not be read. Here: the table engine and probabilities (extensions) on the default data.',
  )
  page.results(
    headline={
      'paper_percent': HEADLINE,
      'computation': [1 - forecast, 1 - forecast / classic],
      'energy': [1 - hard, 1 - hard / slow],
    }
  )


def _figures(page, p, costs, name, found, outcomes, by_head, ratios, true_head, by_energy, alphas, at) -> None:
  first = found[0]
  policy_figures.pareto(page, first.curves, by_energy, float(first.final))
  with jax.enable_x64(True):
    calibration = first.chosen.calibration['classic']
    start = int(policies.start_exit(calibration.exit, calibration.visited.shape[1]))
    tables = energy.cost_tables(p, costs)
    limit = float(energy.deadline(tables, alphas[at]))
    split = jax.tree.map(
      lambda a, b: np.asarray(jnp.sum(a, axis=0) + b[-1]),
      energy.unit_energy(p, costs.segment_macs, costs.segment_bytes),
      energy.unit_energy(p, costs.head_macs, costs.head_bytes),
    )
  policy_figures.exits(page, first.chosen.test, start, calibration)
  walk, run = jax.tree.map(lambda x: x[at], first.runs['predictive, hard'])
  policy_figures.timeline(page, walk, run, np.asarray(p.f), limit, alphas[at])
  policy_figures.energy_by_deadline(page, alphas, outcomes)
  compute = {key: np.mean([f[key][1] for f in by_head], axis=0) for key in by_head[0]}
  policy_figures.head_costs(page, ratios, compute, true_head)
  policy_figures.parts(page, np.asarray(p.f), split._asdict(), name)
  policy_figures.voltages(page, name, p)
