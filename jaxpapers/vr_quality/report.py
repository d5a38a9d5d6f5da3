"""Pictures and tables of a quality run."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np

from jaxpapers.vr_quality.correlation import agreement
from jaxpapers.vr_quality.tables import tile_widths

NAMES = {
  'visibility': 'pseudocylindrical, visibility pooling',
  'mean': 'pseudocylindrical, plain mean',
  'zero_padded': 'zero-padded, visibility pooling',
  'viewport': 'viewports along the true scanpaths',
}
CONDITIONS = ('7A', '15A', '7B', '15B')


def draw(page: Any, models: Mapping, states: Mapping, scenes: Any, test: Any, predict: Callable) -> None:
  """All pictures of a run; those of single conditions need the embedded clips, whose truth is known."""
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
  _scatter(page, {n: scores for n, (_, scores) in found.items()}, mos)
  _crossover(page, mos)
  first = next(iter(models))
  _maps(page, found[first][0].map[:, 0], batch, scenes)
  if models[first].npart:
    _layout(page, models[first].npart, batch['frames'].shape[-2])


def _curves(page: Any, models: Mapping) -> None:
  figure, axis = plt.subplots(figsize=(6, 3.4))
  for name in models:
    axis.plot(*page.history(name, 'loss'), label=NAMES[name])
  axis.set(xlabel='step', ylabel='PLCC loss of the batch')
  axis.legend(fontsize=8)
  page.figure('curves', figure, 'Training curves.')
  plt.close(figure)


def _scatter(page: Any, scores: Mapping[str, np.ndarray], mos: np.ndarray) -> None:
  figure, axes = plt.subplots(1, len(scores), figsize=(3.6 * len(scores), 3.4), squeeze=False)
  rows = []
  for axis, (name, values) in zip(axes[0], scores.items(), strict=True):
    values = values.reshape(mos.shape)
    for index, label in enumerate(CONDITIONS):
      start, time = divmod(index, 2)
      axis.scatter(values[:, start, time], mos[:, start, time], s=10, label=label)
    axis.set(xlabel='prediction', ylabel='MOS', title=NAMES[name].replace(', ', ',\n'))
    each = [agreement(values[:, i // 2, i % 2], mos[:, i // 2, i % 2]).srcc for i in range(4)]
    rows.append([NAMES[name], *each])
  axes[0][0].legend(fontsize=7)
  figure.tight_layout()
  page.figure('scatter', figure, 'Predictions on unseen scenes against synthetic MOS.')
  plt.close(figure)
  page.table(['SRCC within', *CONDITIONS], rows)


def _crossover(page: Any, mos: np.ndarray) -> None:
  figure, axis = plt.subplots(figsize=(4, 3.2))
  for start, label in enumerate('AB'):
    mean = mos[:, start].mean(0)
    axis.errorbar([7, 15], mean, 1.96 * mos[:, start].std(0) / np.sqrt(len(mos)), marker='o', capsize=3, label=label)
  axis.set(xlabel='seconds of viewing', ylabel='mean MOS', xticks=(7, 15))
  axis.legend(title='start')
  page.figure('crossover', figure, 'Start A faces the distortion; the margin to B shrinks with exploration.')
  plt.close(figure)


def _maps(page: Any, maps: np.ndarray, batch: Mapping, scenes: Any) -> None:
  figure, axes = plt.subplots(3, 3, figsize=(10, 5))
  for column, scene in enumerate((0, 1, 2)):
    row = 2 * scene
    axes[0, column].imshow(batch['frames'][row, 0])
    axes[1, column].imshow(scenes.severity[scene], cmap='magma', vmin=0, vmax=1)
    # The map is centred on the start: rolled back in longitude, which is most of the rotation.
    shift = round(float(batch['start'][row, 0]) / (2 * np.pi) * maps.shape[2])
    axes[2, column].imshow(np.roll(maps[row], shift, axis=1), cmap='viridis')
  for axis, title in zip(axes[:, 0], ('scene', 'true severity', 'quality map'), strict=True):
    axis.set_ylabel(title)
  for axis in axes.flat:
    axis.set(xticks=(), yticks=())
  page.figure('quality_map', figure, 'Where the model finds the quality bad (dark), beside the truth.')
  plt.close(figure)


def _layout(page: Any, npart: int, width: int) -> None:
  figure, axis = plt.subplots(figsize=(5, 2.6))
  widths = tile_widths(npart, width)
  axis.barh(range(npart), [width] * npart, color='#222222', height=0.95)
  axis.barh(range(npart), widths, color='#5b9bd5', height=0.95)
  axis.invert_yaxis()
  axis.set(xlabel='columns', ylabel='tile', xlim=(0, width))
  page.figure('tiles', figure, f'Tiles of the pseudocylindrical map; unused columns dark ({sum(widths)} used).')
  plt.close(figure)
