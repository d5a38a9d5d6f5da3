"""Tables and pictures of modelled energy: every policy and frequency rule under deadlines (extension)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np

from jaxpapers.predictive_exit import energy, platforms, policies, policy_study, sweep
from jaxpapers.predictive_exit.energy import Platform
from jaxpapers.predictive_exit.scores import max_prob
from jaxpapers.predictive_exit.tables import Costs, ExitTable

WORK = 64  # times the small network's work, so that its times are those of a network worth scheduling
HEAD = 0.25  # work of a head in mean segments
TRACED = 'predictive, hard'
PAPER = {'computation': (0.962, 0.128), 'energy': (0.729, 0.376)}  # savings against the plain network, early exit


class Result(NamedTuple):
  """One network's study as arrays.

  Attributes:
    outcomes: {policy and rule: `policy_study.Outcome`}, entries [alphas].
    curves: {scheme: `sweep.Curve`}.
    compute: {scheme: multiply-adds at the chosen threshold relative to the plain network}, test set.
    exits: {scheme: [samples]} exits taken at the chosen threshold.
    points: [samples, exits] operating points of the traced policy at the first deadline, -1 after the exit.
    clock: [samples, exits] s.
    visited: [samples, exits] heads that it ran.
    limit: s, the first deadline.
  """

  outcomes: Mapping[str, Any]
  curves: Mapping[str, Any]
  compute: Mapping[str, Any]
  exits: Mapping[str, Any]
  points: Any
  clock: Any
  visited: Any
  limit: Any


def draw(
  page: Any,
  networks: Sequence[tuple[ExitTable, ExitTable]],
  work: Costs,
  *,
  platform: str,
  alphas: Sequence[float],
  drop: float,
  grid: int,
) -> None:
  """The energy part of the report.

  Args:
    page: engine.Report.
    networks: (calibration, test) tables of every trained network.
    work: of one inference.
    platform: name in `platforms`.
    alphas: deadlines relative to the plain network at full speed.
    drop: accuracy below the classifier's that a policy may cost on the calibration set.
    grid: thresholds that are tried.
  """
  page.heading(f'Energy under a deadline, modelled for {platform} (extension)')
  hardware = platforms.platform(platform)
  scaled = policy_study.with_head_ratio(Costs(*(WORK * np.asarray(x) for x in work)), HEAD)

  @jax.jit
  def results(calibration, test):
    return _study(hardware, scaled, calibration, test, np.asarray(alphas), drop, grid)

  each = [jax.tree.map(np.asarray, results(calibration, test)) for calibration, test in networks]
  means = jax.tree.map(lambda *x: np.mean(x, axis=0), *[r.outcomes for r in each])
  _table(page, means, alphas, platform, len(each))
  _headline(page, each, means)
  _fronts(page, each[0], means, alphas)
  _exits(page, each[0])
  _traces(page, each[0], np.asarray(hardware.f))
  _voltages(page, platform, hardware)


def _study(hardware, costs, calibration, test, alphas, drop, grid) -> Result:
  tables = energy.cost_tables(hardware, costs)
  found = policy_study.study(
    hardware, costs, sweep.scored(calibration, max_prob), sweep.scored(test, max_prob), alphas, drop, grid
  )
  plain = policies.plain_macs(costs)
  engine = float(found.runs[TRACED][1].point.shape[-1])
  compute = {name: policies.walk_macs(walk, costs, engine).mean() / plain for name, walk in found.chosen.test.items()}
  walk, run = jax.tree.map(lambda x: x[0], found.runs[TRACED])
  exits = {name: walk.exit for name, walk in found.chosen.test.items()}
  limit = energy.deadline(tables, alphas[0])
  return Result(found.outcomes, found.curves, compute, exits, run.point, run.clock, walk.visited, limit)


def _table(page, means, alphas, platform, count) -> None:
  rows = [
    [name, *map(float, o.energy), float(o.accuracy.mean()), *map(float, o.misses), float(o.heads.mean())]
    for name, o in means.items()
  ]
  page.table(
    [
      'policy and frequency rule',
      *(f'energy, deadline {a:g}' for a in alphas),
      'accuracy',
      *(f'missed, {a:g}' for a in alphas),
      'heads',
    ],
    rows,
    f'Test set, mean over {count} networks, relative to the plain network at full speed; a head costs {HEAD:g} of a '
    f'mean segment, all work times {WORK}. Constants that no vendor publishes: '
    f'{", ".join(platforms.illustrative(platform))}.',
  )
  page.results(energy={name: jax.tree.map(lambda x: x.tolist(), o._asdict()) for name, o in means.items()})


def _headline(page, each, means) -> None:
  """The paper's four best savings beside those of this run at equal calibration accuracy."""
  mean = {name: float(np.mean([r.compute[name] for r in each])) for name in each[0].compute}
  predictive, classic = mean['predictive'], mean['classic']
  spent, safe = (float(means[n].energy.min()) for n in (TRACED, 'classic, lowest safe frequency'))
  measured = {
    'computation': (1 - predictive, 1 - predictive / classic),
    'energy': (1 - spent, 1 - spent / safe),
  }
  rows = [
    [f'{kind} saved against {against}', f'{paper:.1%}', f'{here:.1%}', how]
    for kind, how in (('computation', 'counted from shapes'), ('energy', 'modelled'))
    for against, paper, here in zip(('the plain network', 'early exit'), PAPER[kind], measured[kind], strict=True)
  ]
  page.table(
    ['', 'paper, at best', 'here', 'how'],
    rows,
    'The calibrated forecast (extension) against the classic exit, at the looser deadline. The paper prints the best '
    'of its networks and data sets, on boards that nobody measured here: the two columns answer different questions.',
  )
  page.results(headline={kind: {'paper': PAPER[kind], 'here': measured[kind]} for kind in PAPER})


def _fronts(page, first, means, alphas) -> None:
  figure, axes = plt.subplots(1, 3, figsize=(14, 4.4), layout='constrained')
  for name, curve in first.curves.items():
    compute, accuracy = sweep.envelope(curve.compute, curve.accuracy)
    axes[0].step(compute, accuracy, where='post', label=name, lw=1.3)
  axes[0].set(xlabel='multiply-adds / plain network', ylabel='test accuracy', title='every threshold, first network')
  axes[0].legend(fontsize=7)
  markers = 'osD^v<>Ph*X'
  for i, (name, outcome) in enumerate(means.items()):
    late = outcome.misses[0] > 0
    style = dict(marker=markers[i % len(markers)], color=f'C{i % 10}', ls='', mfc='none' if late else None)
    axes[1].plot(outcome.energy[0], outcome.accuracy[0], label=name + (' (late)' if late else ''), **style)
    axes[2].plot(alphas, outcome.energy, marker=markers[i % len(markers)], color=f'C{i % 10}', mfc=style['mfc'])
  axes[1].set(
    xlabel='energy / plain network at full speed', ylabel='test accuracy', title=f'deadline {alphas[0]:g}, modelled'
  )
  axes[2].set(xlabel='deadline / plain time at full speed', ylabel='energy', title='energy against the deadline')
  figure.legend(*axes[1].get_legend_handles_labels(), loc='outside lower center', ncols=3, fontsize=8)
  page.figure('energy', figure, 'Hollow: the rule misses deadlines. Means over the networks in the right two.')
  plt.close(figure)


def _exits(page, first) -> None:
  figure, axes = plt.subplots(
    1, len(first.exits), figsize=(2.3 * len(first.exits), 2.4), sharey=True, layout='constrained'
  )
  exits = first.points.shape[1]
  for axis, (name, taken) in zip(axes, first.exits.items(), strict=True):
    axis.bar(range(1, exits + 1), np.bincount(taken, minlength=exits) / len(taken))
    axis.set_title(name, fontsize=9)
    axis.set_xlabel('exit')
  axes[0].set_ylabel('share of test images')
  page.figure('exits_taken', figure, 'Where images leave at the chosen threshold, first network.')
  plt.close(figure)


def _traces(page, first, frequencies) -> None:
  """Frequency over time of an image that leaves early and of one that leaves late."""
  depth = (first.points >= 0).sum(1)
  figure, axes = plt.subplots(1, 2, figsize=(11, 3.2), sharex=True, sharey=True, layout='constrained')
  for axis, sample, name in zip(
    axes, (np.argmin(depth), np.argmax(depth)), ('leaves first', 'leaves last'), strict=True
  ):
    n = depth[sample]
    ends = 1e3 * first.clock[sample, :n]
    axis.stairs(1e-6 * frequencies[first.points[sample, :n]], np.append(0.0, ends), color='C0', baseline=None, lw=2)
    heads = np.flatnonzero(first.visited[sample, :n])
    axis.plot(ends[heads], 1e-6 * frequencies[first.points[sample, heads]], 'o', color='C1', label='head run')
    axis.axvline(1e3 * first.limit, color='black', ls='--', label='deadline')
    axis.set(xlabel='ms', title=f'the image that {name} (exit {n})')
  axes[0].set_ylabel('clock, MHz')
  axes[1].legend(fontsize=8)
  page.figure(
    'frequency', figure, f'{TRACED}, first network and deadline: a forecast sets the clock until the next head.'
  )
  plt.close(figure)


def _voltages(page, name: str, hardware: Platform) -> None:
  figure, axis = plt.subplots(figsize=(4.5, 3), layout='constrained')
  axis.plot(1e-6 * np.asarray(hardware.f), np.asarray(hardware.V), marker='o')
  axis.set(xlabel='clock, MHz', ylabel='supply, V', title=name)
  page.figure('platform', figure, 'Operating points of the platform.')
  plt.close(figure)
