"""Pictures of what a distillation reaches: bars, Pareto front, training curves, and the soft step."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from jaxpapers.reliant import metrics
from jaxpapers.reliant.data import Dataset
from jaxpapers.reliant.fairness import STEPS
from jaxpapers.reliant.replicas import Grid

TITLES = {
  'teacher': 'teacher',
  'vanilla': 'vanilla student',
  'vanilla_without_columns': 'vanilla without the replaced columns',
  'penalty_only': 'penalty only (frozen proxies)',
  'fixed_proxies': 'fixed proxies [s, 1 - s]',
  'reliant': 'RELIANT',
}
Scores = Mapping[str, Mapping[str, np.ndarray]]


def label_gap(sets: Sequence[Dataset]) -> float:
  """dSP of the test labels, mean over data sets."""
  return float(np.mean([metrics.label_gap(d.labels[d.splits.test], d.sensitive[d.splits.test]) for d in sets]))


def two_lines(name: str) -> str:
  """The title of a stage, broken where it is long."""
  return TITLES[name].replace(' (', '\n(').replace(' the replaced', '\nthe replaced').replace(' [', '\n[')


def bars(page: Any, found: Scores, sets: Sequence[Dataset]) -> None:
  """Accuracy, dSP and dEO with intervals over seeds.

  Args:
    page: the report.
    found: stage -> metric -> [points, seeds].
    sets: the data.
  """
  names = list(found)
  figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout='constrained')
  for axis, metric in zip(axes, ('accuracy', 'dsp', 'deo'), strict=True):
    values = [found[name][metric][0] for name in names]
    means = [v.mean() for v in values]
    axis.bar(range(len(names)), means, color=[f'C{i}' for i in range(len(names))], alpha=0.6)
    axis.errorbar(range(len(names)), means, [v.std() for v in values], fmt='none', ecolor='black', capsize=4)
    for place, v in enumerate(values):
      axis.scatter([place] * len(v), v, s=10, color='black', zorder=3)
    axis.set_xticks(range(len(names)), [two_lines(n) for n in names], rotation=25, ha='right')
    axis.set_title({'accuracy': 'accuracy', 'dsp': 'dSP', 'deo': 'dEO'}[metric])
    if metric == 'accuracy':
      low = min(v.min() for v in values)
      axis.set_ylim(max(0.0, low - 0.05), 1.0)
    if metric == 'dsp':
      axis.axhline(label_gap(sets), color='grey', ls='--', lw=1)
      axis.text(0.02, 0.97, 'dashed: the labels', transform=axis.transAxes, va='top', fontsize=8, color='grey')
  page.figure('bars', figure, 'Test nodes; points are seeds, whiskers one deviation.')
  plt.close(figure)


def front(page: Any, found: Scores, grids: Mapping[str, Grid], sets: Sequence[Dataset]) -> None:
  """Accuracy against the gap for every weight.

  Args:
    page: the report.
    found: stage -> metric -> [points, seeds].
    grids: stage -> its replicas.
    sets: the data.
  """
  figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout='constrained')
  for axis, metric in zip(axes, ('dsp', 'deo'), strict=True):
    for color, (name, result) in enumerate(found.items()):
      points = grids[name].points
      x, y = result[metric], result['accuracy']
      axis.scatter(x[0], y[0], s=12, alpha=0.4, color=f'C{color}')
      same = sorted((i for i, p in enumerate(points) if p.metric == points[0].metric), key=lambda i: points[i].alpha)
      axis.plot(x[same].mean(axis=1), y[same].mean(axis=1), marker='o', color=f'C{color}', label=TITLES[name])
      for i in same if len(same) > 1 else ():
        axis.annotate(
          f'{points[i].alpha:.0f}',
          (x[i].mean(), y[i].mean()),
          textcoords='offset points',
          xytext=(4, 5 if name == 'reliant' else -11),
          fontsize=7,
          color=f'C{color}',
        )
      for i, p in enumerate(points):
        if p.metric != points[0].metric:
          axis.scatter(x[i].mean(), y[i].mean(), marker='*', s=90, color=f'C{color}')
    axis.set(xlabel={'dsp': 'dSP', 'deo': 'dEO'}[metric], ylabel='accuracy')
  axes[0].axvline(label_gap(sets), color='grey', ls='--', lw=1, label='dSP of the labels')
  axes[0].legend(fontsize=7)
  page.figure(
    'front',
    figure,
    'Utility against fairness: means over seeds, numbers are alpha, faint points seeds, stars the other metric.',
  )
  plt.close(figure)


def curves(page: Any, names: Sequence[str], epochs: int) -> None:
  """Distance to the teacher, gaps and validation accuracy over training.

  Args:
    page: the report, with the history of the metrics.
    names: stages.
    epochs: in a step of the engine.
  """
  figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout='constrained')

  def line(axis, name, metric, color, style='-', label=''):
    steps, values = page.history(name, metric)
    if steps:
      axis.plot([s * epochs for s in steps], values, style, color=f'C{color}', label=label or TITLES[name])

  for color, name in enumerate(names):
    line(axes[0], name, 'distance', color)
    for metric, style in (('gap_mean', '-'), ('gap_individual', ':')):
      which = metric.removeprefix('gap_')
      line(axes[1], name, metric, color, style, f'{TITLES[name]}, {which} proxies')
    line(axes[2], name, 'val_accuracy', color)
  for axis, title in zip(axes, ('distance to the teacher', 'gap while training', 'validation accuracy'), strict=True):
    axis.set(title=title, xlabel='epoch')
    if axis.lines:
      axis.legend(fontsize=7)
  page.figure(
    'curves',
    figure,
    'While training, means over seeds at the main setting. The student lowers the gap with mean proxies; the '
    'individual ones are trained to raise it.',
  )
  plt.close(figure)


def step_polynomial(page: Any) -> None:
  """The gap's soft step beside the true one."""
  p = np.linspace(0.0, 1.0, 201)
  figure, axis = plt.subplots(figsize=(4.6, 3.2), layout='constrained')
  for name, label in (('official', "the authors' polynomial"), ('projection', 'true Legendre projection')):
    axis.plot(p, np.polyval(STEPS[name][::-1], 2 * p - 1), label=label)
  axis.plot(p, p > 0.5, color='grey', lw=1, label='step')
  axis.set(xlabel='p', ylabel='f(p)')
  axis.legend(fontsize=8)
  page.figure('step', figure, 'What stands for a hard prediction inside the gap.')
  plt.close(figure)
