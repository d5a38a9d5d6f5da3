"""What the proxies learn: where they move over training, and how well the sensitive attribute can be read off them."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from jaxpapers.reliant.data import Dataset

_SHOWN = 3000


def probe(rows: np.ndarray, sensitive: np.ndarray) -> float:
  """Cross-validated accuracy of a linear probe that reads s [N] off proxies [N, 2]."""
  # The probe's penalty must not depend on the proxies' scale.
  spread = rows.std(axis=0)
  scaled = (rows - rows.mean(axis=0)) / np.where(spread > 0.0, spread, 1.0)
  return float(cross_val_score(LogisticRegression(max_iter=1000), scaled, sensitive, cv=5).mean())


def over_training(page: Any, trace: np.ndarray, moments: Sequence[int], sets: Sequence[Dataset]) -> None:
  """Scatter of the first seed's proxies at every moment, and the probe's accuracy over all seeds.

  Args:
    page: the report.
    trace: proxies [seeds, moments, N, 2].
    moments: epochs done.
    sets: data of each seed, or one for all.
  """
  read = np.array(
    [[probe(rows, sets[seed % len(sets)].sensitive) for rows in values] for seed, values in enumerate(trace)]
  )
  base = float(np.mean([max(d.sensitive.mean(), 1.0 - d.sensitive.mean()) for d in sets]))
  loaded = sets[0]
  figure, axes = plt.subplots(1, len(moments) + 1, figsize=(3.3 * (len(moments) + 1), 3.4), layout='constrained')
  shown = np.random.default_rng(0).permutation(len(loaded.x))[:_SHOWN]
  for axis, rows, epoch, accuracy in zip(axes[:-1], trace[0], moments, read[0], strict=True):
    for group in (0, 1):
      mine = shown[loaded.sensitive[shown] == group]
      axis.scatter(rows[mine, 0], rows[mine, 1], s=5, alpha=0.5, label=f's = {group}')
    axis.scatter(*rows.mean(axis=0), marker='+', s=90, color='black', label='mean row')
    axis.set(title=f'epoch {epoch}, probe {accuracy:.2f}', xlabel='first proxy')
  axes[0].set_ylabel('second proxy')
  axes[0].legend(fontsize=7)
  axes[-1].plot(moments, read.T, color='C0', alpha=0.3, lw=1)
  axes[-1].plot(moments, read.mean(axis=0), color='C0', marker='o', label='probe of s, mean over seeds')
  axes[-1].axhline(base, color='grey', ls='--', lw=1, label='majority')
  low = min(0.5, read.min() - 0.02)
  axes[-1].set(title='s read off the proxies', xlabel='epoch', ylabel='accuracy', ylim=(low, 1.0))
  axes[-1].legend(fontsize=7)
  page.figure(
    'proxies',
    figure,
    f'Proxies over training, first seed (up to {_SHOWN} nodes; every panel has its own scale), and what a linear '
    f'probe reads off them: {read[:, -1].mean():.3f} at the end, {base:.3f} for the majority.',
  )
  page.results(
    proxy_probe=float(read[:, -1].mean()),
    proxy_probe_majority=base,
    proxy_probe_over_training={str(epoch): value for epoch, value in zip(moments, read.mean(axis=0), strict=True)},
  )
  plt.close(figure)
