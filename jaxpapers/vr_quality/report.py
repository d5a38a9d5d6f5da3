"""Tables and pictures of a quality run: agreement with opinion scores, training curves, what the seam changes."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np

from jaxpapers.vr_quality import quality_pictures
from jaxpapers.vr_quality.correlation import agreement

NAMES = {
  'visibility': 'pseudocylindrical, visibility pooling',
  'mean': 'pseudocylindrical, plain mean',
  'zero_padded': 'zero-padded, visibility pooling',
  'viewport': 'viewports along the true scanpaths',
}
CONDITIONS = ('7A', '15A', '7B', '15B')


def draw(
  page: Any, models: Mapping, states: Mapping, scenes: Any, test: Any, predict: Callable, seconds: tuple[int, ...]
) -> None:
  """All pictures of a run; those of single conditions need the embedded clips, whose truth is known.

  Args:
    page: the engine's report.
    models: by name, in the order of the stages.
    states: final training states by name.
    scenes: `panoramas.Scenes` of the test, or None.
    test: its source.
    predict: (name, state, batch) -> (Quality, scores, scores with the seam in the middle of the view or None).
    seconds: of the viewports in the batch's `path`.
  """
  rows = [[NAMES[n], *(page.final[n][f'test/{m}'] for m in ('srcc', 'plcc', 'rmse'))] for n in models]
  page.heading('Unseen scenes')
  page.table(['model', 'SRCC', 'PLCC', 'RMSE'], rows, 'All conditions together; one seed.')
  _curves(page, models)
  if scenes is None:
    return
  batch = test.gather(np.arange(len(test)))
  mos = batch['mos'].reshape(-1, 2, 2)  # scenes, starts, times
  found = {name: jax.device_get(jax.jit(lambda s, b, n=name: predict(n, s, b))(states[name], batch)) for name in models}
  page.results(mos_by_start_and_time=mos.mean(0))
  _scatter(page, {n: scores for n, (_, scores, _) in found.items()}, mos)
  _seam(page, {n: (scores, turned) for n, (_, scores, turned) in found.items() if turned is not None})
  _start_and_time(page, mos)
  first = next(iter(models))
  quality_pictures.maps(page, models[first], states[first], batch, scenes)
  quality_pictures.film_strip(
    page, batch['frames'][0, 0], batch['path'][0], [f'{s} s' for s in seconds], 'Viewports along three scanpaths.'
  )
  if models[first].npart:
    quality_pictures.tiles(page, models[first].npart, batch['frames'][0, 0])


def _curves(page: Any, models: Mapping) -> None:
  figure, axis = plt.subplots(figsize=(6, 3.4), layout='constrained')
  rows = []
  for name in models:
    steps, losses = page.history(name, 'loss')
    axis.plot(steps, losses, marker='.', label=NAMES[name])
    rows.append([NAMES[name], losses[0], float(np.mean(losses[-4:]))])
  axis.set(xlabel='step', ylabel='PLCC loss of the batch', ylim=(0, None))
  axis.legend(fontsize=8)
  page.figure('curves', figure, 'Training curves.')
  plt.close(figure)
  page.table(['PLCC loss', 'first logged batch', 'last four logged batches'], rows)
  page.results(loss_first_and_last={row[0]: row[1:] for row in rows})


def _scatter(page: Any, scores: Mapping[str, np.ndarray], mos: np.ndarray) -> None:
  """Predictions against scores with the mapping that agreement is measured through, and what it leaves."""
  figure, axes = plt.subplots(
    2, len(scores), figsize=(3.6 * len(scores), 5), squeeze=False, layout='constrained', height_ratios=(2, 1)
  )
  rows = []
  for (above, below), (name, values) in zip(axes.T, scores.items(), strict=True):
    values = values.reshape(mos.shape)
    mapped = agreement(values.reshape(-1), mos.reshape(-1)).fit.mapped.reshape(mos.shape)
    for index, label in enumerate(CONDITIONS):
      start, time = divmod(index, 2)
      above.scatter(values[:, start, time], mos[:, start, time], s=10, label=label)
    order = np.argsort(values, axis=None)
    above.plot(values.ravel()[order], mapped.ravel()[order], color='black', lw=1.2)
    above.set(xlabel='prediction', ylabel='MOS', title=NAMES[name].replace(', ', ',\n'), ylim=(0.9, 5.1))
    left = [(mos - mapped)[:, i // 2, i % 2] for i in range(4)]
    below.boxplot(left, tick_labels=CONDITIONS, showfliers=False)
    below.axhline(0, color='grey', lw=0.8)
    below.set(ylabel='MOS - mapped', ylim=(-2, 2))
    each = [agreement(values[:, i // 2, i % 2], mos[:, i // 2, i % 2]).srcc for i in range(4)]
    rows.append([NAMES[name], *each])
  axes[0][0].legend(fontsize=7)
  page.figure('scatter', figure, 'Predictions on unseen scenes, the logistic mapping, and the residuals by condition.')
  plt.close(figure)
  page.table(['SRCC within', *CONDITIONS], rows)


def _seam(page: Any, pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
  """How far scores move when the panorama's edge runs through the middle of the view instead of behind it."""
  rows = [[NAMES[n], float(np.abs(turned - scores).mean() / scores.std())] for n, (scores, turned) in pairs.items()]
  if not rows:
    return
  page.table(
    ['model', 'mean change of a score'],
    rows,
    'The same clip stored with the ±180° seam through the middle of the view instead of behind the viewer; in standard '
    'deviations of the scores. What the viewer sees is the same.',
  )
  page.results(seam_change=dict(rows))


def _start_and_time(page: Any, mos: np.ndarray) -> None:
  figure, axis = plt.subplots(figsize=(4, 3.2), layout='constrained')
  for start, label in enumerate('AB'):
    mean = mos[:, start].mean(0)
    axis.errorbar([7, 15], mean, 1.96 * mos[:, start].std(0) / np.sqrt(len(mos)), marker='o', capsize=3, label=label)
  axis.set(xlabel='seconds of viewing', ylabel='mean MOS', xticks=(7, 15))
  axis.legend(title='start')
  page.figure('start_and_time', figure, 'Start A faces the distortion; the margin to B shrinks with exploration.')
  plt.close(figure)
