"""Table and pictures of the defence suite."""

from collections.abc import Callable, Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from jaxpapers.doorping.defence import Outcome

Outcomes = Mapping[str, Mapping[str, Outcome]]


def draw(page: Any, outcomes: Outcomes, target: int) -> None:
  """Adds the defences to a report: one table, one picture per defence that has one, and entries of results.json.

  Args:
    page: the engine's Report.
    outcomes: from `defence_suite.defend`.
    target: the attacked label, marked in the pictures.
  """
  page.heading('Defences')
  table(page, outcomes)
  heat_map(page, outcomes)
  pictures: dict[str, Callable] = {
    'STRIP': strip_histograms,
    'neural cleanse': cleanse_norms,
    'spectral signatures': spectral_scatter,
    'SCAn': scan_index,
    'fine-pruning': pruning_curves,
  }
  for name, picture in pictures.items():
    if name in outcomes:
      picture(page, outcomes[name], target)
  page.results(defences=summary(outcomes))


def summary(outcomes: Outcomes) -> dict[str, dict[str, dict[str, Any]]]:
  """{defence: {attack: {number: value}}}, without the arrays."""
  return {
    defence: {
      attack: {
        'level': o.level,
        'auroc': o.auroc,
        'tpr_at_1_percent_fpr': o.tpr,
        'flagged': o.flagged,
        'false_flags': o.false_flags,
        'cta_before': o.cta[0],
        'cta_after': o.cta[1],
        'asr_before': o.asr[0],
        'asr_after': o.asr[1],
        'seconds': o.seconds,
      }
      for attack, o in row.items()
    }
    for defence, row in outcomes.items()
  }


def _cell(o: Outcome) -> str:
  parts = []
  if not np.isnan(o.auroc):
    parts.append(f'AUROC {o.auroc:.2f}, TPR {o.tpr:.2f}')
  if not np.isnan(o.flagged):
    parts.append(f'flags {o.flagged:.2f} ({o.false_flags:.2f} false)')
  if not np.isnan(o.cta[1]):
    parts.append(f'CTA {o.cta[0]:.2f} → {o.cta[1]:.2f}, ASR {o.asr[0]:.2f} → {o.asr[1]:.2f}')
  return '; '.join(parts) or '-'


def table(page: Any, outcomes: Outcomes) -> None:
  """Rows are defences, columns attacks, and the time of all attacks together."""
  attacks = list(next(iter(outcomes.values())))
  rows = [
    [
      f'{name} ({row[attacks[0]].level})',
      *(_cell(row[a]) for a in attacks),
      f'{sum(o.seconds for o in row.values()):.1f} s',
    ]
    for name, row in outcomes.items()
  ]
  page.table(
    ['defence', *attacks, 'time'],
    rows,
    'TPR at 1% false positives, with thresholds from clean data only. Flags: share of victims whose target is flagged '
    '(for STRIP, of triggered images), false ones among the other labels (clean images).',
  )


def heat_map(page: Any, outcomes: Outcomes) -> None:
  """Left: AUROC of detections. Right: attack success after a removing defence less before."""
  attacks = list(next(iter(outcomes.values())))
  panels = (
    ('AUROC of the detection', lambda o: o.auroc, 'viridis', (0.0, 1.0)),
    ('change of the attack success', lambda o: o.asr[1] - o.asr[0], 'coolwarm', (-1.0, 1.0)),
  )
  figure, axes = plt.subplots(1, 2, figsize=(11, 0.42 * len(outcomes) + 1.6), layout='constrained')
  for axis, (title, value, cmap, (low, high)) in zip(axes, panels, strict=True):
    names = [name for name, row in outcomes.items() if not all(np.isnan(value(o)) for o in row.values())]
    if not names:
      axis.axis('off')
      continue
    grid = np.asarray([[value(outcomes[name][a]) for a in attacks] for name in names])
    image = axis.imshow(grid, vmin=low, vmax=high, cmap=cmap, aspect='auto')
    axis.set_xticks(range(len(attacks)), attacks, rotation=25, ha='right')
    axis.set_yticks(range(len(names)), names)
    axis.set_title(title)
    for (i, j), number in np.ndenumerate(grid):
      dark = number < 0.6 if low == 0.0 else abs(number) > 0.6
      axis.text(j, i, f'{number:.2f}', ha='center', va='center', color='white' if dark else 'black', fontsize=9)
    figure.colorbar(image, ax=axis)
  page.figure('defences', figure, 'Every defence against every attack; the clean column is the control.')
  plt.close(figure)


def _panels(outcomes: Mapping[str, Outcome], **options: Any) -> tuple[Any, np.ndarray]:
  count = len(outcomes)
  figure, axes = plt.subplots(1, count, figsize=(4.0 * count, 3.4), squeeze=False, layout='constrained', **options)
  for axis, name in zip(axes[0], outcomes, strict=True):
    axis.set_title(name)
  return figure, axes[0]


def strip_histograms(page: Any, outcomes: Mapping[str, Outcome], target: int) -> None:
  """Entropies of clean and triggered images of the first victim, with the threshold."""
  del target
  figure, axes = _panels(outcomes, sharex=True)
  top = max(max(o.details['clean'].max(), o.details['triggered'].max()) for o in outcomes.values())
  bins = np.linspace(0.0, max(float(top), 1e-3), 31)
  for axis, o in zip(axes, outcomes.values(), strict=True):
    axis.hist(o.details['clean'][0], bins, alpha=0.6, label='clean')
    axis.hist(o.details['triggered'][0], bins, alpha=0.6, label='triggered')
    axis.axvline(o.details['threshold'][0], color='black', lw=1, label='threshold (clean, 1%)')
    axis.set_xlabel('entropy in bits')
  axes[0].set_ylabel('images')
  axes[0].legend(fontsize=8)
  page.figure('strip', figure, 'STRIP: triggered images left of the threshold are detected.')
  plt.close(figure)


def _bars(figure_axes: Any, values: Mapping[str, np.ndarray], target: int, label: str) -> None:
  axes = figure_axes
  for axis, lanes in zip(axes, values.values(), strict=True):
    classes = np.arange(lanes.shape[1])
    colors = ['tab:red' if c == target else 'tab:blue' for c in classes]
    axis.bar(classes, lanes.mean(axis=0), color=colors, yerr=lanes.std(axis=0))
    axis.set_xticks(classes)
    axis.set_xlabel('label (target red)')
  axes[0].set_ylabel(label)


def cleanse_norms(page: Any, outcomes: Mapping[str, Outcome], target: int) -> None:
  """L1 norm of the smallest patch of every label; the mean anomaly index stands above."""
  figure, axes = _panels(outcomes, sharey=True)
  _bars(axes, {name: o.details['norms'] for name, o in outcomes.items()}, target, 'L1 norm of the mask')
  for axis, o in zip(axes, outcomes.values(), strict=True):
    heights = o.details['norms'].mean(axis=0) + o.details['norms'].std(axis=0)
    for label, (height, index) in enumerate(zip(heights, o.details['index'].mean(axis=0), strict=True)):
      axis.text(label, height, f'{index:.1f}', ha='center', va='bottom', fontsize=8)
    axis.margins(y=0.12)
  page.figure('neural_cleanse', figure, 'Neural Cleanse: a small patch with an index above 2 is suspicious.')
  plt.close(figure)


def scan_index(page: Any, outcomes: Mapping[str, Outcome], target: int) -> None:
  """SCAn's anomaly index per class, with its limit."""
  figure, axes = _panels(outcomes, sharey=True)
  index = {name: np.minimum(o.details['index'], 1e3) for name, o in outcomes.items()}
  _bars(axes, index, target, 'anomaly index')
  for axis in axes:
    axis.axhline(np.e**2, color='black', lw=1, ls='--')
  page.figure('scan', figure, 'SCAn: classes above the line, e², look like a mixture of two groups.')
  plt.close(figure)


def spectral_scatter(page: Any, outcomes: Mapping[str, Outcome], target: int) -> None:
  """Spectral score of every distilled image of the first victim, by class."""
  figure, axes = _panels(outcomes)
  for axis, o in zip(axes, outcomes.values(), strict=True):
    scores, removed = o.details['scores'][0], o.details['removed'][0]
    for label, (row, out) in enumerate(zip(scores, removed, strict=True)):
      color = 'tab:red' if label == target else 'tab:blue'
      axis.scatter(np.full(int(np.sum(~out)), label), row[~out], s=14, color=color, alpha=0.6)
      axis.scatter(np.full(int(np.sum(out)), label), row[out], s=30, color=color, marker='x')
    axis.set_xticks(range(len(scores)))
    axis.set_xlabel('class (target red)')
  axes[0].set_ylabel('spectral score')
  page.figure('spectral', figure, 'Spectral signatures: crosses are removed.')
  plt.close(figure)


def pruning_curves(page: Any, outcomes: Mapping[str, Outcome], target: int) -> None:
  """Clean accuracy and attack success against the share of pruned units."""
  del target
  figure, axes = _panels(outcomes, sharey=True)
  for axis, o in zip(axes, outcomes.values(), strict=True):
    curve = o.details['curve']
    share = np.linspace(0.0, 1.0, curve.shape[1])
    for column, (label, color) in enumerate((('CTA', 'tab:blue'), ('ASR', 'tab:red'))):
      axis.plot(share, curve[..., column].T, color=color, alpha=0.25, lw=1)
      axis.plot(share, curve[..., column].mean(axis=0), color=color, label=label)
    axis.axvline(float(o.details['pruned'].mean()) / (curve.shape[1] - 1), color='black', lw=1, ls='--')
    axis.set(xlabel='share of units pruned', ylim=(-0.02, 1.02))
  axes[0].set_ylabel('rate on the test set')
  axes[0].legend(fontsize=8)
  page.figure('pruning', figure, 'Fine-pruning: thin lines are victims, the dashed line is where pruning stops.')
  plt.close(figure)
