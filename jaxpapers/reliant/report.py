"""Pictures and tables of a distillation run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from jaxpapers.reliant import metrics
from jaxpapers.reliant.data import Dataset
from jaxpapers.reliant.evaluation import scores
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


class Context(NamedTuple):
  """What the pictures need beside the states.

  Attributes:
    sets: data of each seed, or one for all.
    grids: replicas of each stage.
    predictions: stage -> ((state, batch) -> probabilities [R, N, C], batch).
    replaced: names of the columns that proxies overwrite, or ().
    epochs: in one step of the engine.
  """

  sets: Sequence[Dataset]
  grids: Mapping[str, Grid]
  predictions: Mapping[str, tuple[Callable, Any]]
  replaced: tuple[str, ...]
  epochs: int


def draw(states: Mapping[str, Any], page: Any, context: Context) -> None:
  """Everything; histograms and proxies are those of the first seed."""
  probabilities = {
    name: np.asarray(jax.jit(predict)(states[name], batch)) for name, (predict, batch) in context.predictions.items()
  }
  found = {name: scores(values, context.sets, context.grids[name]) for name, values in probabilities.items()}
  comparison(page, found, probabilities, context)
  bars(page, found, context)
  front(page, found, context)
  curves(page, context)
  histograms(page, probabilities, context.sets[0])
  if 'reliant' in states:
    proxies(page, np.asarray(states['reliant'].params['proxy'])[0], context.sets[0])
  step_polynomial(page)


def label_gap(sets: Sequence[Dataset]) -> float:
  """dSP of the test labels, mean over data sets."""
  return float(np.mean([metrics.label_gap(d.labels[d.splits.test], d.sensitive[d.splits.test]) for d in sets]))


def comparison(page: Any, found: Mapping[str, Any], probabilities: Mapping[str, np.ndarray], context: Context) -> None:
  """All rows of the ablation, and what RELIANT costs and gains in a sentence."""
  page.heading('Test nodes')
  rows, values = [], {}
  for name, result in found.items():
    grid = context.grids[name]
    for index, point in enumerate(grid.points):
      plain = name in ('teacher', 'vanilla', 'vanilla_without_columns')
      title = TITLES[name] if plain else f'{TITLES[name]}, {point.metric.upper()}, alpha {point.alpha:.4g}'
      cells = [f'{result[m][index].mean():.4f} ± {result[m][index].std():.4f}' for m in result]
      block = slice(index * grid.seeds, (index + 1) * grid.seeds)
      agree = np.mean(
        [metrics.agreement(s, t) for s, t in zip(probabilities[name][block], probabilities['teacher'], strict=True)]
      )
      rows.append([title, *cells, float(agree)])
      values[title] = {m: result[m][index].tolist() for m in result}
  gap_of_labels = label_gap(context.sets)
  seeds = next(iter(context.grids.values())).seeds
  page.table(
    ['model', 'accuracy', 'F1', 'AUC', 'dSP', 'dEO', 'agrees with teacher'],
    rows,
    f'Mean and deviation over {seeds} seeds. The labels themselves have dSP {gap_of_labels:.4f}.',
  )
  if context.replaced:
    page.text(f'Proxies overwrite the columns {" and ".join(context.replaced)}: compare with the row without them.')
  if context.sets[0].note:
    page.text(context.sets[0].note)
  page.results(scores=values, label_gap=gap_of_labels)
  if 'reliant' in found:
    main, vanilla = found['reliant'], found['vanilla']
    metric = 'dsp' if context.grids['reliant'].points[0].metric == 'sp' else 'deo'
    before, after = vanilla[metric][0].mean(), main[metric][0].mean()
    cost = vanilla['accuracy'][0].mean() - main['accuracy'][0].mean()
    page.text(
      f'RELIANT takes {metric} of the vanilla student from {before:.4f} to {after:.4f} and its accuracy down by '
      f'{cost:.4f}; the teacher has {found["teacher"][metric][0].mean():.4f}.'
    )
    if 'penalty_only' in found:
      alone = found['penalty_only']
      page.text(
        f'The penalty alone reaches {alone[metric][0].mean():.4f} at accuracy {alone["accuracy"][0].mean():.4f}, '
        f'RELIANT {after:.4f} at {main["accuracy"][0].mean():.4f}: the difference is what learning the proxies adds.'
      )


def bars(page: Any, found: Mapping[str, Any], context: Context) -> None:
  """Accuracy, dSP and dEO with intervals over seeds."""
  names = list(found)
  figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout='constrained')
  for axis, metric in zip(axes, ('accuracy', 'dsp', 'deo'), strict=True):
    values = [found[name][metric][0] for name in names]
    axis.bar(range(len(names)), [v.mean() for v in values], color=[f'C{i}' for i in range(len(names))], alpha=0.6)
    axis.errorbar(
      range(len(names)), [v.mean() for v in values], [v.std() for v in values], fmt='none', ecolor='black', capsize=4
    )
    for place, v in enumerate(values):
      axis.scatter([place] * len(v), v, s=10, color='black', zorder=3)
    axis.set_xticks(range(len(names)), [TITLES[n].replace(' (', '\n(') for n in names], rotation=25, ha='right')
    axis.set_title({'accuracy': 'accuracy', 'dsp': 'dSP', 'deo': 'dEO'}[metric])
    if metric == 'accuracy':
      low = min(v.min() for v in values)
      axis.set_ylim(max(0.0, low - 0.05), 1.0)
    if metric == 'dsp':
      axis.axhline(label_gap(context.sets), color='grey', ls='--', lw=1)
      axis.text(0.02, 0.97, 'dashed: the labels', transform=axis.transAxes, va='top', fontsize=8, color='grey')
  page.figure('bars', figure, 'Test nodes; points are seeds, whiskers one deviation.')
  plt.close(figure)


def front(page: Any, found: Mapping[str, Any], context: Context) -> None:
  """Accuracy against the gap for every weight."""
  figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout='constrained')
  for axis, metric in zip(axes, ('dsp', 'deo'), strict=True):
    for color, (name, result) in enumerate(found.items()):
      points = context.grids[name].points
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
  axes[0].axvline(label_gap(context.sets), color='grey', ls='--', lw=1, label='dSP of the labels')
  axes[0].legend(fontsize=7)
  page.figure(
    'front',
    figure,
    'Utility against fairness: means over seeds, numbers are alpha, faint points seeds, stars the other metric.',
  )
  plt.close(figure)


def curves(page: Any, context: Context) -> None:
  """Distance, gaps and validation accuracy over training."""

  def epochs(stage, metric):
    steps, values = page.history(stage, metric)
    return [step * context.epochs for step in steps], values

  figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout='constrained')
  for color, name in enumerate(context.grids):
    steps, values = epochs(name, 'distance')
    axes[0].plot(steps, values, color=f'C{color}', label=TITLES[name]) if steps else None
    for metric, style in (('gap_mean', '-'), ('gap_individual', ':')):
      steps, values = epochs(name, metric)
      label = f'{TITLES[name]}, {"mean" if style == "-" else "individual"} proxies'
      axes[1].plot(steps, values, style, color=f'C{color}', label=label) if steps else None
    steps, values = epochs(name, 'val_accuracy')
    axes[2].plot(steps, values, color=f'C{color}', label=TITLES[name]) if steps else None
  for axis, title in zip(axes, ('distance to the teacher', 'gap while training', 'validation accuracy'), strict=True):
    axis.set(title=title, xlabel='epoch')
    if axis.lines:
      axis.legend(fontsize=7)
  page.figure('curves', figure, 'Means over seeds at the main setting.')
  plt.close(figure)


def histograms(page: Any, probabilities: Mapping[str, np.ndarray], loaded: Dataset) -> None:
  """Predicted probability of the positive class, by group."""
  test, s = loaded.splits.test, loaded.sensitive[loaded.splits.test]
  figure, axes = plt.subplots(1, len(probabilities), figsize=(3.1 * len(probabilities), 3), layout='constrained')
  for axis, (name, values) in zip(np.atleast_1d(axes), probabilities.items(), strict=True):
    for group in (0, 1):
      axis.hist(values[0][test][s == group, 1], bins=20, range=(0, 1), alpha=0.5, density=True, label=f's = {group}')
    axis.set_title(TITLES[name].replace(' (', '\n('), fontsize=9)
    axis.set_xlabel('P(y = 1)')
  np.atleast_1d(axes)[0].legend(fontsize=8)
  page.figure('groups', figure, 'Predicted probabilities by group, test nodes of the first seed.')
  plt.close(figure)


def proxies(page: Any, rows: np.ndarray, loaded: Dataset) -> None:
  """What the proxies learnt, and how well s can be read off them."""
  probe = cross_val_score(LogisticRegression(max_iter=1000), rows, loaded.sensitive, cv=5).mean()
  base = max(loaded.sensitive.mean(), 1.0 - loaded.sensitive.mean())
  figure, axis = plt.subplots(figsize=(4.6, 4), layout='constrained')
  shown = np.random.default_rng(0).permutation(len(rows))[:3000]
  for group in (0, 1):
    mine = shown[loaded.sensitive[shown] == group]
    axis.scatter(rows[mine, 0], rows[mine, 1], s=6, alpha=0.5, label=f's = {group}')
  axis.set(xlabel='first proxy', ylabel='second proxy')
  axis.legend(fontsize=8)
  page.figure(
    'proxies',
    figure,
    f'Proxies after training, first seed. A linear probe reads s off them with accuracy {probe:.3f} '
    f'(majority {base:.3f}).',
  )
  page.results(proxy_probe=float(probe), proxy_probe_majority=float(base))
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
