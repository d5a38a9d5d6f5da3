"""Pictures of policies and frequency rules (extension); matplotlib is the caller's to have."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from jaxpapers.predictive_exit import platforms
from jaxpapers.predictive_exit.policies import Walk
from jaxpapers.predictive_exit.simulate import Run
from jaxpapers.predictive_exit.sweep import Curve


def pareto(page: Any, curves: Mapping[str, Curve], by_energy: Mapping[str, Curve], final: float) -> None:
  """Accuracy against computation and against energy, one line per policy, the network without exits as a star."""
  figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), sharey=True, layout='constrained')
  for axis, found, label in zip(axes, (curves, by_energy), ('multiply-adds', 'energy at full speed'), strict=True):
    for i, (name, curve) in enumerate(found.items()):
      order = np.argsort(curve.compute)
      style = '-' if name.startswith('classic') else '--'
      axis.plot(curve.compute[order], curve.accuracy[order], style, color=f'C{i}', lw=1.3, label=name)
    axis.plot(1.0, final, marker='*', ms=13, color='black', ls='', label='network without exits')
    axis.set(xlabel=f'{label}, relative to the network without exits')
  axes[0].set(ylabel='test accuracy')
  axes[0].legend(fontsize=8, loc='lower right')
  page.figure('policy_pareto', figure, 'Every threshold of every policy, first network, drawn on test samples.')
  plt.close(figure)


def exits(page: Any, walks: Mapping[str, Walk], start: int, calibration: Walk) -> None:
  """Shares of exits with the calibration set's normal curve and start, heads run, and forecast against actual exit."""
  figure, axes = plt.subplots(1, 3, figsize=(14, 3.8), layout='constrained', width_ratios=(1.2, 1, 1))
  count = walks['classic'].visited.shape[1]
  taken = np.bincount(walks['classic'].exit, minlength=count) / len(walks['classic'].exit)
  axes[0].bar(np.arange(count), taken, color='C0', alpha=0.7, label='test samples')
  mean, deviation = np.mean(calibration.exit), max(np.std(calibration.exit), 0.2)
  x = np.linspace(-0.5, count - 0.5, 200)
  normal = np.exp(-0.5 * ((x - mean) / deviation) ** 2) / (deviation * np.sqrt(2 * np.pi))
  axes[0].plot(x, normal, color='C1', label='normal curve of the calibration set')
  axes[0].axvline(start, color='black', ls='--', lw=1, label=f'starting exit {start}')
  axes[0].set(title='exit taken by the classic policy', xlabel='exit, from 0', ylabel='share')
  axes[0].legend(fontsize=7)
  names = list(walks)
  axes[1].barh(names, [walks[n].visited.sum(1).mean() for n in names], color='C2')
  axes[1].invert_yaxis()
  axes[1].tick_params(axis='y', labelsize=8)
  axes[1].set(title='heads run per sample')
  walk, classic = walks['predictive'], walks['classic']
  first = np.argmax(walk.predicted >= 0, axis=1)
  asked = walk.predicted[np.arange(len(first)), first] >= 0
  cells = np.zeros((count, count))
  np.add.at(cells, (classic.exit[asked], walk.predicted[asked, first[asked]]), 1)
  image = axes[2].imshow(cells.T, origin='lower', cmap='Blues')
  axes[2].plot([0, count - 1], [0, count - 1], color='grey', lw=1)
  axes[2].set(title='first forecast of the table engine', xlabel='first confident exit', ylabel='exit forecast')
  figure.colorbar(image, ax=axes[2], label='samples')
  page.figure('policy_exits', figure, 'Where samples leave, what that costs in heads, and what was forecast.')
  plt.close(figure)


def timeline(page: Any, walk: Walk, run: Run, f: np.ndarray, limit: float, alpha: float) -> None:
  """Frequency over time of an easy and a hard sample, with the exits that were run, forecasts and the deadline."""
  last = walk.visited.shape[1] - 1
  asked = np.flatnonzero(walk.predictions > 0)
  if not len(asked):
    return
  easy = asked[np.argmin(walk.exit[asked])]
  hard = asked[np.argmax(walk.predictions[asked] * 100 + walk.exit[asked])]
  figure, axes = plt.subplots(2, 1, figsize=(9, 4.6), sharex=True, sharey=True, layout='constrained')
  for axis, n, title in ((axes[0], easy, 'easy'), (axes[1], hard, 'hard')):
    end = walk.exit[n]
    times = 1e3 * np.concatenate([[0.0], run.clock[n, : end + 1]])
    speed = f[run.point[n, : end + 1]] / 1e6
    axis.stairs(speed, times, baseline=None, color='C0', lw=1.6)
    for i, k in enumerate(np.flatnonzero(walk.visited[n, : end + 1])):
      leaves = k == end
      axis.plot(times[k + 1], speed[k], marker='o', ms=5, color='C2' if leaves else 'C3')
      # Neighbours may lie close together: labels alternate above and below the line, at two heights.
      offset = (6, -14, 17, -25)[i % 4]
      axis.annotate(
        f'{k} leaves' if leaves else f'{k}→{walk.predicted[n, k]}',
        (times[k + 1], speed[k]),
        textcoords='offset points',
        xytext=(0, offset),
        ha='center',
        fontsize=8,
      )
    axis.axvline(1e3 * limit, color='black', ls='--', lw=1)
    axis.set(ylabel='MHz', ylim=(0, 1.45 * f[-1] / 1e6))
    axis.set_title(f'{title} sample: leaves at exit {end} of {last}', fontsize=10)
  axes[1].set(xlabel='ms since the start')
  caption = (
    f'Predictive, hard mode, deadline {alpha:g} times the time of the network without exits (dashed). Red: an exit was '
    'run and named the next (from→to); green: the sample left.'
  )
  page.figure('policy_timeline', figure, caption)
  plt.close(figure)


def energy_by_deadline(page: Any, alphas: Sequence[float], outcomes: Mapping[str, Any]) -> None:
  """Energy and missed deadlines against alpha, every policy with its frequency rule."""
  figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.4), layout='constrained', width_ratios=(1.4, 1))
  for i, (name, outcome) in enumerate(outcomes.items()):
    style = dict(color=f'C{i % 10}', ls='-' if i < 10 else ':', marker='os^vD'[i % 5], ms=4, lw=1.2)
    left.plot(alphas, outcome.energy, label=name, **style)
    if np.max(outcome.misses) > 0:
      right.plot(alphas, outcome.misses, label=name, **style)
  left.set(xlabel='deadline / time of the network without exits', ylabel='energy, relative to it at full speed')
  left.legend(fontsize=7, loc='upper left', bbox_to_anchor=(0, -0.16), ncols=2)
  right.set(xlabel='deadline / time of the network without exits', ylabel='share of missed deadlines', ylim=(0, 1))
  if right.lines:
    right.legend(fontsize=7)
  page.figure(
    'policy_energy', figure, 'Mean over the networks. Only rules that miss a deadline are in the right picture.'
  )
  plt.close(figure)


def head_costs(page: Any, ratios: Sequence[float], compute: Mapping[str, np.ndarray], actual: float) -> None:
  """Computation against what a head costs: where forecasting starts to pay."""
  figure, axis = plt.subplots(figsize=(7, 4), layout='constrained')
  for i, (name, values) in enumerate(compute.items()):
    axis.plot(ratios, values, '-' if name.startswith('classic') else '--', color=f'C{i}', marker='o', ms=4, label=name)
  axis.axvline(actual, color='black', ls=':', lw=1, label=f'heads of this network: {actual:.2g}')
  axis.set(xscale='log', xlabel='cost of a head / mean segment', ylabel='multiply-adds, relative to no exits')
  axis.set_xticks(ratios, [f'{r:.2g}' for r in ratios])
  axis.minorticks_off()
  axis.legend(fontsize=7)
  page.figure('policy_heads', figure, 'At equal calibration accuracy, test set, mean over the networks.')
  plt.close(figure)


def parts(page: Any, f: np.ndarray, energies: Mapping[str, np.ndarray], name: str) -> None:
  """Where the energy of one inference without exits goes, by operating point; mJ."""
  figure, axis = plt.subplots(figsize=(7, 3.6), layout='constrained')
  bottom = np.zeros(len(f))
  labels = [f'{x / 1e6:g}' for x in f]
  for part, values in energies.items():
    axis.bar(labels, 1e3 * values, bottom=1e3 * bottom, label=part)
    bottom += values
  axis.set(xlabel='MHz', ylabel='mJ', title=f'{name}: one inference without exits')
  axis.tick_params(axis='x', labelsize=7)
  axis.legend(fontsize=8)
  page.figure(
    'policy_energy_parts', figure, 'Modelled: the slowest clock is not the cheapest once leakage and base count.'
  )
  plt.close(figure)


def voltages(page: Any, chosen: str, p: Any) -> None:
  """Supply voltage against clock of every platform that the library knows, and of the one chosen."""
  figure, axis = plt.subplots(figsize=(7, 4), layout='constrained')
  known = {name: platforms.platform(name) for name in platforms.SOURCES}
  for i, (name, q) in enumerate({**known, chosen: p}.items()):
    axis.plot(q.f / 1e6, q.V, marker='o', ms=3, lw=2.2 if name == chosen else 1, color=f'C{i}', label=name)
  axis.set(xlabel='MHz', ylabel='V')
  axis.legend(fontsize=8)
  page.figure('policy_voltages', figure, 'Operating points; all but the chosen platform from published tables.')
  plt.close(figure)
