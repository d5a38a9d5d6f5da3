"""Pictures of maps, returns and curves: each a function from arrays to a matplotlib figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import PatchCollection
from scipy import stats

from jaxpapers.r2rise.importance import ImportanceMap, confidence_interval
from jaxpapers.r2rise.legacy import image_0_255
from jaxpapers.r2rise.results import AgreementMatrix, LearnerResult
from jaxpapers.r2rise.statistics import discoveries

COLORS = {'top': 'tab:blue', 'random': '0.45', 'bottom': 'tab:red'}
_DIVERGING, _NO_VALUE = 'RdBu', '0.8'


def _ticks(count: int) -> range:
  return range(0, count, max(1, -(-count // 10)))


def _image(axis: Any, value: np.ndarray, diverging: bool = True) -> Any:
  """A map, blue where the return gains; grey where there is no value."""
  finite = value[np.isfinite(value)]
  colors = plt.get_cmap(_DIVERGING if diverging else 'viridis').with_extremes(bad=_NO_VALUE)
  bound = float(np.abs(finite).max(initial=0.0)) or 1.0
  limits = dict(vmin=-bound, vmax=bound) if diverging else {}
  image = axis.imshow(value, aspect='auto', interpolation='nearest', cmap=colors, **limits)
  axis.set_yticks(_ticks(len(value)))
  return image


def map_figure(importance: ImportanceMap, truth: np.ndarray | None, block: int, label: str) -> plt.Figure:
  """The map, trajectory by time, hatched where its 95 % interval holds 0; what was planted below.

  Args:
    importance: [E, C] each; errors may be all NaN.
    truth: [E, C] bool or None.
    block: frames a cell.
    label: of the colours.
  """
  value = np.asarray(importance.value, np.float64)
  rows = len(value)
  known = truth is not None
  heights = [1.0, 1.0] if known else [1.0]
  figure, axes = plt.subplots(
    len(heights), 1, figsize=(11, 1.3 + len(heights) * (0.7 + 0.22 * min(rows, 20))), sharex=True, layout='constrained',
    squeeze=False, height_ratios=heights,
  )  # fmt: skip
  axis = axes[0, 0]
  with_error = bool(np.isfinite(importance.error).any())
  image = _image(axis, value, with_error or float(np.nanmin(value)) < 0 < float(np.nanmax(value)))
  if with_error:
    low, high = confidence_interval(importance)
    unsure = (low <= 0) & (high >= 0)
    boxes = [plt.Rectangle((c - 0.5, e - 0.5), 1, 1) for e, c in np.argwhere(unsure)]
    axis.add_collection(PatchCollection(boxes, facecolor='none', edgecolor='0.4', hatch='////', linewidth=0))
    for e, c in np.argwhere(discoveries(importance)):
      axis.add_patch(plt.Rectangle((c - 0.5, e - 0.5), 1, 1, fill=False, edgecolor='black', lw=1.1))
  figure.colorbar(image, ax=axis, label=label, pad=0.01)
  axis.set(ylabel='trajectory', title='importance')
  if known:
    axes[1, 0].imshow(truth, aspect='auto', cmap='Greys', vmin=0, vmax=1.3, interpolation='nearest')
    axes[1, 0].set(ylabel='trajectory', title='planted: dark cells were made to matter', yticks=_ticks(rows))
  axes[-1, 0].set_xlabel(f'time, in cells of {block} frame{"s" if block > 1 else ""}')
  return figure


def profile_figure(result: LearnerResult, truth: np.ndarray | None, block: int, label: str) -> plt.Figure:
  """Importance over time, the mean over trajectories, with a 95 % band as if errors of cells were independent."""
  value, error = (np.asarray(x, np.float64) for x in result.importance[:2])
  episodes, cells = value.shape
  time = np.arange(cells)
  with np.errstate(invalid='ignore'):
    counts = np.isfinite(value).sum(axis=0)
    mean = np.where(counts > 0, np.nansum(value, axis=0) / np.maximum(counts, 1), np.nan)
    half = stats.norm.ppf(0.975) * np.sqrt(np.nansum(error**2, axis=0)) / np.maximum(np.isfinite(error).sum(axis=0), 1)
  figure, axis = plt.subplots(figsize=(11, 3.2), layout='constrained')
  if truth is not None:
    share = truth.mean(axis=0)
    axis.bar(
      time, share, width=1.0, color='tab:orange', alpha=0.25, zorder=0, transform=axis.get_xaxis_transform(),
      label='planted (share of trajectories, 0 to 1)',
    )  # fmt: skip
  if len(result.seed_values) > 1:
    for index, seed_map in enumerate(result.seed_values):
      seed_mean = np.where(counts > 0, np.nansum(seed_map, axis=0) / np.maximum(counts, 1), np.nan)
      axis.plot(time, seed_mean, color='0.6', lw=0.7, label='map of one seed' if index == 0 else None)
  if np.isfinite(error).any():
    axis.fill_between(time, mean - half, mean + half, color='tab:blue', alpha=0.25, lw=0, label='95 % interval')
    axis.axhline(0, color='black', lw=0.7)
  axis.plot(time, mean, color='tab:blue', lw=1.6, marker='o', ms=3, label=f'mean of {episodes} trajectories')
  axis.set(xlabel=f'time, in cells of {block} frame{"s" if block > 1 else ""}', ylabel=label, xlim=(-0.5, cells - 0.5))
  axis.legend(fontsize=8, loc='lower left', bbox_to_anchor=(0.0, 1.0), ncols=4, frameon=False)
  return figure


def returns_figure(learners: Sequence[LearnerResult]) -> plt.Figure:
  """Histograms of the masks' mean returns."""
  figure, axes = plt.subplots(1, len(learners), figsize=(4.6 * len(learners), 3.2), layout='constrained', squeeze=False)
  for axis, learner in zip(axes[0], learners, strict=True):
    returns, kept = learner.returns[np.isfinite(learner.returns)], learner.kept[np.isfinite(learner.returns)]
    axis.hist(returns, bins=min(40, max(8, round(np.sqrt(returns.size)))), color='tab:blue', alpha=0.7)
    axis.axvline(returns.mean(), color='black', lw=1.2, label=f'mean {returns.mean():.2f}')
    everything = learner.curve.line('all')[1]
    if everything.size:
      axis.axvline(everything[0], color='black', lw=1.2, ls=':', label=f'all frames {everything[0]:.2f}')
    empty = int((kept == 0).sum())
    if empty:
      axis.axvline(returns[kept == 0].mean(), color='tab:red', lw=1.2, ls='--', label=f'{empty} without any frame')
    axis.set(xlabel='mean return of a mask', ylabel='masks', title=f'{learner.name}: {returns.size:,} retrainings')
    axis.legend(fontsize=8)
  return figure


def settling_figure(learners: Sequence[LearnerResult], rankings: Mapping[str, np.ndarray]) -> plt.Figure:
  """Reliability, AUC and the ranking against the number of masks: means over seeds, thin lines single seeds.

  Args:
    learners: of the run.
    rankings: {learner: [S, K, 2]} Spearman's correlation with the final map, and overlap of the top fifth with its.
  """
  truth = any(learner.reliability.auc is not None for learner in learners)
  titles = ['split-half reliability', *(['AUC of the planted cells'] if truth else [])]
  titles += ['rank correlation with the final map', 'top fifth shared with the final map']
  figure, axes = plt.subplots(1, len(titles), figsize=(3.5 * len(titles), 3.3), layout='constrained', squeeze=False)
  for index, learner in enumerate(learners):
    settled, ranking = learner.reliability, rankings[learner.name]
    lines = [settled.reliability, *([settled.auc] if truth else []), ranking[..., 0], ranking[..., 1]]
    for axis, values in zip(axes[0], lines, strict=True):
      if values is None:
        continue
      color = f'C{index}'
      if len(values) > 1:
        axis.plot(settled.masks, values.T, color=color, lw=0.6, alpha=0.5)
      counts = np.isfinite(values).sum(axis=0)
      mean = np.where(counts > 0, np.nansum(values, axis=0) / np.maximum(counts, 1), np.nan)
      axis.plot(settled.masks, mean, color=color, marker='o', ms=3, label=learner.name)
    for stop in {int(s) for s in settled.stopped if s > 0}:
      axes[0, 0].axvline(stop, color=f'C{index}', ls=':', lw=1)
  for axis, title in zip(axes[0], titles, strict=True):
    axis.set(xlabel='masks', title=title)
    axis.title.set_fontsize(10)
    axis.set_ylim(top=1.03)
    if title.startswith('AUC'):
      axis.axhline(0.5, color='black', lw=0.7, ls='--')
  axes[0, 0].legend(fontsize=8, loc='lower right')
  return figure


def curves_figure(learners: Sequence[LearnerResult]) -> plt.Figure:
  """Returns of fresh learners on the top, random and bottom cells, beside those on all frames."""
  figure, axes = plt.subplots(
    1, len(learners), figsize=(1.0 + 4.6 * len(learners), 3.8), layout='constrained', squeeze=False
  )
  for axis, learner in zip(axes[0], learners, strict=True):
    for order, color in COLORS.items():
      fractions, means, errors = learner.curve.line(order)
      axis.errorbar(fractions, means, errors, color=color, label=order, capsize=3, marker='o', ms=3)
    for order, style, text in (('all', ':', 'all frames'), ('truth', '--', 'planted cells only')):
      _, means, errors = learner.curve.line(order)
      if means.size:
        axis.axhline(means[0], color='black', ls=style, lw=1.2, label=text)
        if np.isfinite(errors[0]):
          axis.axhspan(means[0] - errors[0], means[0] + errors[0], color='black', alpha=0.08, lw=0)
    axis.set(xlabel='share of the cells kept', ylabel='mean return', title=learner.name, xlim=(0.0, 1.02))
  axes[0, -1].legend(fontsize=8, loc='upper left', bbox_to_anchor=(1.0, 1.0))
  return figure


def agreement_figure(agreement: AgreementMatrix, maps: Sequence[np.ndarray]) -> plt.Figure:
  """Rank correlations of the learners' maps with intervals and noise ceilings, and every pair as a scatter of ranks.

  Args:
    agreement: L learners.
    maps: L maps of one shape.
  """
  names, count = agreement.names, len(agreement.names)
  pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
  figure, axes = plt.subplots(
    1, 1 + len(pairs), figsize=(2.0 + 1.3 * count + 3.1 * len(pairs), 3.6), layout='constrained', squeeze=False,
    width_ratios=[1.3, *[1.0] * len(pairs)],
  )  # fmt: skip
  axis = axes[0, 0]
  image = axis.imshow(agreement.spearman, cmap=_DIVERGING, vmin=-1, vmax=1)
  for i in range(count):
    for j in range(count):
      rho = agreement.spearman[i, j]
      text = f'{rho:.2f}' + (
        '\nreliability'
        if i == j
        else f'\n[{agreement.low[i, j]:.2f}, {agreement.high[i, j]:.2f}]\nceiling {agreement.ceiling[i, j]:.2f}'
      )
      axis.text(j, i, text, ha='center', va='center', fontsize=8, color='white' if abs(rho) > 0.6 else 'black')
  axis.set_xticks(range(count), names)
  axis.set_yticks(range(count), names)
  axis.set_title("Spearman's correlation of maps", fontsize=10)
  figure.colorbar(image, ax=axis, shrink=0.8)
  for axis, (i, j) in zip(axes[0, 1:], pairs, strict=True):
    a, b = (np.asarray(maps[k], np.float64).reshape(-1) for k in (i, j))
    both = np.isfinite(a) & np.isfinite(b)
    axis.scatter(
      stats.rankdata(a[both]),
      stats.rankdata(b[both]),
      s=float(np.clip(900 / both.sum(), 9, 40)),
      alpha=0.6,
      color='tab:purple',
      lw=0,
    )
    axis.set(xlabel=f'rank of a cell by {names[i]}', ylabel=f'by {names[j]}', aspect='equal')
    axis.set_title(
      f'$\\rho$ {agreement.spearman[i, j]:.2f}, shared top fifth {agreement.overlap[i, j]:.0%}', fontsize=9
    )
  return figure


def difference_figure(names: Sequence[str], maps: Sequence[np.ndarray], block: int) -> plt.Figure:
  """Differences of pairs of maps, each scaled to 0..1 first, as the authors compare them."""
  pairs = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
  figure, axes = plt.subplots(
    len(pairs), 1, figsize=(11, 0.8 + len(pairs) * (0.7 + 0.22 * min(len(maps[0]), 20))), sharex=True,
    layout='constrained', squeeze=False,
  )  # fmt: skip
  for axis, (i, j) in zip(axes[:, 0], pairs, strict=True):
    scaled = [np.where(np.isfinite(m), image_0_255(np.nan_to_num(m, nan=np.nanmean(m))) / 255, np.nan) for m in maps]
    image = axis.imshow(scaled[i] - scaled[j], aspect='auto', interpolation='nearest', cmap='PuOr', vmin=-1, vmax=1)
    axis.set(ylabel='trajectory', yticks=_ticks(len(maps[0])))
    axis.set_title(f'{names[i]} - {names[j]}; mean size {np.nanmean(np.abs(scaled[i] - scaled[j])):.2f}', fontsize=10)
    figure.colorbar(image, ax=axis, pad=0.01)
  axes[-1, 0].set_xlabel(f'time, in cells of {block} frame{"s" if block > 1 else ""}')
  return figure


def baselines_figure(maps: Mapping[str, np.ndarray], titles: Mapping[str, str], block: int) -> plt.Figure:
  """Small maps side by side, each by ranks of its cells: only the order of the cells is comparable."""
  lines, rows = -(-len(maps) // 2), len(next(iter(maps.values())))
  figure, axes = plt.subplots(
    lines, 2, figsize=(11, 0.6 + lines * (0.5 + 0.14 * min(rows, 20))), sharex=True, layout='constrained', squeeze=False
  )
  for axis, (name, value) in zip(axes.flat, maps.items(), strict=False):
    ranks = stats.rankdata(np.nan_to_num(np.asarray(value, np.float64), nan=-np.inf)).reshape(value.shape)
    image = axis.imshow(ranks, aspect='auto', interpolation='nearest', cmap='viridis', vmin=1, vmax=ranks.size)
    axis.set(yticks=_ticks(rows))
    axis.set_title(titles.get(name, name), fontsize=9, loc='left')
  for axis in axes.flat[len(maps) :]:
    axis.axis('off')
  for axis in axes[-1]:
    axis.set_xlabel(f'time, in cells of {block} frame{"s" if block > 1 else ""}')
  figure.colorbar(image, ax=axes, label='rank of a cell', pad=0.01)
  return figure
