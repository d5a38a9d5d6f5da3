"""Pictures of how predictions differ between the sensitive groups."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from jaxpapers.reliant.data import Dataset
from jaxpapers.reliant.figures import TITLES, two_lines
from jaxpapers.reliant.metrics import group_confusion

# Named as (label, prediction); the two right ones in full colour.
_CELLS = (
  ('label 1, predicted 1', (1, 1), 'C0', 1.0),
  ('label 1, predicted 0', (1, 0), 'C0', 0.4),
  ('label 0, predicted 1', (0, 1), 'C1', 0.4),
  ('label 0, predicted 0', (0, 0), 'C1', 1.0),
)


def histograms(page: Any, probabilities: Mapping[str, np.ndarray], loaded: Dataset) -> None:
  """Predicted probability of the positive class, by group.

  Args:
    page: the report.
    probabilities: stage -> [replicas, N, C]; the first replica is shown.
    loaded: its data.
  """
  test, s = loaded.splits.test, loaded.sensitive[loaded.splits.test]
  figure, axes = plt.subplots(1, len(probabilities), figsize=(3.1 * len(probabilities), 3), layout='constrained')
  for axis, (name, values) in zip(np.atleast_1d(axes), probabilities.items(), strict=True):
    for group in (0, 1):
      axis.hist(values[0][test][s == group, 1], bins=20, range=(0, 1), alpha=0.5, density=True, label=f's = {group}')
    axis.set_title(two_lines(name), fontsize=9)
    axis.set_xlabel('P(y = 1)')
  np.atleast_1d(axes)[0].legend(fontsize=8)
  page.figure('groups', figure, 'Predicted probabilities by group, test nodes of the first seed.')
  plt.close(figure)


def confusion(
  page: Any, probabilities: Mapping[str, np.ndarray], sets: Sequence[Dataset], seeds: int
) -> dict[str, np.ndarray]:
  """Shares of the four outcomes in each group, as stacked bars; means over the seeds of the main setting.

  Args:
    page: the report.
    probabilities: stage -> [replicas, N, C]; the first `seeds` replicas are the main setting.
    sets: data of each seed, or one for all.
    seeds: of the main setting.

  Returns:
    {stage: [2 groups, 2 labels, 2 predictions]} as drawn.
  """
  found = {}
  for name, values in probabilities.items():
    tables = []
    for seed in range(seeds):
      loaded = sets[seed % len(sets)]
      test = loaded.splits.test
      tables.append(group_confusion(values[seed][test], loaded.labels[test], loaded.sensitive[test]))
    found[name] = np.mean(tables, axis=0)
  figure, axis = plt.subplots(figsize=(2.0 + 1.7 * len(found), 4.2), layout='constrained')
  places, ticks = [], []
  for index, (name, shares) in enumerate(found.items()):
    for group in (0, 1):
      place, bottom = 2.5 * index + group, 0.0
      places.append(place)
      ticks.append(f's={group}')
      for label, (truth, predicted), color, alpha in _CELLS:
        height = shares[group, truth, predicted]
        axis.bar(place, height, 0.9, bottom, color=color, alpha=alpha, label=None if index or group else label)
        if height > 0.05:
          axis.text(place, bottom + height / 2, f'{height:.2f}', ha='center', va='center', fontsize=7)
        bottom += height
      found_positive = shares[group, :, 1].sum()
      axis.text(place, 1.01, f'{found_positive:.2f}', ha='center', fontsize=8)
    axis.text(2.5 * index + 0.5, 1.07, two_lines(name), ha='center', va='bottom', fontsize=8)
  axis.set_xticks(places, ticks)
  axis.set(ylim=(0, 1.0), ylabel='share of the group')
  axis.spines[['top', 'right']].set_visible(False)
  axis.legend(loc='upper center', bbox_to_anchor=(0.5, -0.08), ncol=4, fontsize=8, frameon=False)
  page.figure(
    'confusion',
    figure,
    'What becomes of each group on the test nodes, means over seeds. Above a bar: share predicted positive; the '
    'difference between the two bars is dSP where all seeds lean one way. '
    f'Of {TITLES["reliant"]}, the main setting.',
  )
  plt.close(figure)
  return found
