"""Pictures of grooves and of what is measured on them; every function returns a matplotlib figure."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from jaxpapers.drums.notation import INSTRUMENTS, STEPS, to_text
from jaxpapers.drums.structure import self_distances

_COLOURS = ('#b8860b', '#4c9f70', '#c0392b', '#1f3a5f', '#7f8c8d', '#8e44ad')


def piano_roll(grooves: Mapping[str, np.ndarray], prompt_steps: int = 2 * STEPS) -> Figure:
  """One roll under the other, lines at the measures, the prompt shaded.

  Args:
    grooves: {title: grid [steps, 6] bool}.
    prompt_steps: shaded steps at the left; 0 shades none.
  """
  figure, axes = plt.subplots(
    len(grooves), 1, figsize=(13, 0.4 + 1.5 * len(grooves)), layout='constrained', sharex=True, squeeze=False
  )
  for axis, (title, grid) in zip(axes[:, 0], grooves.items(), strict=True):
    _roll(axis, grid, prompt_steps)
    axis.set_title(title, fontsize=9, loc='left')
  axes[-1, 0].set_xlabel('sixteenth note; lines at the measures')
  return figure


def stability_curves(curves: Mapping[str, Sequence[np.ndarray]], top: float = 50.0) -> Figure:
  """Mean over grooves of the stability at each inner measure, the middle half of the grooves shaded.

  Args:
    curves: {who: curves as of `structure.stability_curves`}; empty ones are left out.
    top: upper end of the axis; larger values raise it.
  """
  figure, axis = plt.subplots(figsize=(8, 4), layout='constrained')
  for name, several in curves.items():
    table = _padded([curve for curve in several if len(curve)])
    if not table.size:
      continue
    measure = np.arange(table.shape[1]) + 2
    (line,) = axis.plot(measure, np.nanmean(table, axis=0), marker='.', label=f'{name} ({len(table)})')
    low, high = np.nanpercentile(table, (25, 75), axis=0)
    axis.fill_between(measure, low, high, color=line.get_color(), alpha=0.12, lw=0)
    top = max(top, 1.05 * float(np.nanmax(np.append(high, np.nanmean(table, axis=0)))))
  axis.set(xlabel='measure', ylabel='edits to the nearer neighbour', ylim=(0, top))
  axis.legend(fontsize=8)
  return figure


def duplicates(histograms: Mapping[str, Mapping[str, Mapping[int, int]]]) -> Figure:
  """How often measures occur in reference corpora, a panel each.

  Args:
    histograms: {corpus: {who: {occurrences: measures}}} as of `metrics.duplication`.
  """
  figure, axes = plt.subplots(1, len(histograms), figsize=(5.5 * len(histograms), 3.4), layout='constrained')
  for axis, (corpus, rows) in zip(np.atleast_1d(axes), histograms.items(), strict=True):
    most = max((max(row, default=0) for row in rows.values()), default=0)
    width = 0.8 / max(len(rows), 1)
    for index, (name, row) in enumerate(rows.items()):
      total = max(sum(row.values()), 1)
      shares = [row.get(times, 0) / total for times in range(most + 1)]
      axis.bar(np.arange(most + 1) + (index - (len(rows) - 1) / 2) * width, shares, width, label=name)
    axis.set(xlabel=f'occurrences in {corpus}', ylabel='part of the measures', ylim=(0, 1))
    axis.set_yscale('symlog', linthresh=0.01)
    axis.legend(fontsize=8)
  return figure


def self_distance(grooves: Mapping[str, np.ndarray | str]) -> Figure:
  """Edit distances between all measures of a groove, a panel each on one scale."""
  tables = {name: self_distances(groove) for name, groove in grooves.items()}
  top = max([1, *(int(table.max(initial=0)) for table in tables.values())])
  figure, axes = plt.subplots(1, len(tables), figsize=(3.4 * len(tables) + 0.8, 3.4), layout='constrained')
  axes = np.atleast_1d(axes)
  for axis, (name, table) in zip(axes, tables.items(), strict=True):
    n = len(table)
    image = axis.imshow(table, vmin=0, vmax=top, cmap='viridis', extent=(0.5, n + 0.5, n + 0.5, 0.5))
    axis.set_title(name, fontsize=9)
    axis.set(xlabel='measure', ylabel='measure')
  figure.colorbar(image, ax=list(axes), label='edits', shrink=0.8)
  return figure


def waveform(samples: np.ndarray, rate: int, beats: np.ndarray | None = None) -> Figure:
  """A rendered groove [samples] over time; `beats` [n] are seconds to mark, such as where measures begin."""
  figure, axis = plt.subplots(figsize=(12, 2.2), layout='constrained')
  pieces = max(1, -(-len(samples) // 4000))
  padded = np.pad(samples, (0, -len(samples) % pieces)).reshape(-1, pieces)
  time = np.arange(len(padded)) * pieces / rate
  axis.fill_between(time, padded.min(axis=1), padded.max(axis=1), lw=0.3)
  for beat in beats if beats is not None else ():
    axis.axvline(beat, color='black', lw=0.4, alpha=0.4)
  axis.set(xlabel='seconds', ylim=(-1.02, 1.02), xlim=(0, max(time[-1], 1e-3) if len(time) else 1))
  return figure


def text_and_roll(grid: np.ndarray, title: str = '') -> Figure:
  """The text of a groove, a column for each measure, above its roll."""
  lines = to_text(grid).split()
  measures = [lines[i : i + STEPS] for i in range(0, len(lines), STEPS)]
  figure, (top, bottom) = plt.subplots(
    2, 1, figsize=(13, 4.6), layout='constrained', gridspec_kw={'height_ratios': (2.4, 1)}
  )
  top.axis('off')
  top.set_title(title, fontsize=9, loc='left')
  for index, measure in enumerate(measures):
    place = index / max(len(measures), 1)
    top.text(place, 1.0, '\n'.join(measure), family='monospace', fontsize=7, va='top', transform=top.transAxes)
  _roll(bottom, grid, 0)
  return figure


def learning_curves(
  curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], baselines: Mapping[str, float]
) -> Figure:
  """Nats per line over training steps, baselines as horizontal lines.

  Args:
    curves: {arm: (steps, nats per line)}.
    baselines: {name: nats per line}.
  """
  figure, axis = plt.subplots(figsize=(8, 4), layout='constrained')
  for name, (steps, values) in curves.items():
    axis.plot(steps, values, marker='.', label=name)
  _baselines(axis, baselines)
  axis.set(xlabel='step', ylabel='nats per line')
  axis.legend(fontsize=8)
  return figure


def against_grooves(arms: Mapping[str, Mapping[int, Sequence[float]]], baselines: Mapping[str, float]) -> Figure:
  """Nats per line against the number of training grooves: mean over seeds, and from the least to the largest.

  Args:
    arms: {arm: {grooves: values, one a seed}}.
    baselines: {name: nats per line}.
  """
  figure, axis = plt.subplots(figsize=(8, 4), layout='constrained')
  for name, row in arms.items():
    sizes = sorted(row)
    mean = np.array([np.mean(row[size]) for size in sizes])
    low, high = (np.array([pick(row[size]) for size in sizes]) for pick in (np.min, np.max))
    axis.errorbar(sizes, mean, yerr=[mean - low, high - mean], marker='o', ms=4, capsize=3, label=name)
  _baselines(axis, baselines)
  axis.set(xscale='log', xlabel='training grooves', ylabel='nats per line')
  ticks = sorted({size for row in arms.values() for size in row})
  axis.set_xticks(ticks, [str(size) for size in ticks])
  axis.minorticks_off()
  axis.legend(fontsize=8)
  return figure


def _baselines(axis: plt.Axes, baselines: Mapping[str, float]) -> None:
  for (name, value), style in zip(baselines.items(), (':', '-.', '--', (0, (1, 3))) * len(baselines), strict=False):
    axis.axhline(value, color='black', ls=style, lw=1, label=f'{name} {value:.3f}')


def _roll(axis: plt.Axes, grid: np.ndarray, prompt_steps: int) -> None:
  step, column = np.nonzero(grid)
  axis.scatter(step + 0.5, column, c=np.array(_COLOURS)[column], marker='s', s=9, lw=0)
  for line in range(0, len(grid) + 1, STEPS):
    axis.axvline(line, color='black', lw=0.5, alpha=0.35)
  if prompt_steps:
    axis.axvspan(0, prompt_steps, color='#f2e6c9', zorder=0, lw=0)
  axis.set(xlim=(0, max(len(grid), 1)), ylim=(len(INSTRUMENTS) - 0.5, -0.5))
  axis.set_yticks(range(len(INSTRUMENTS)), INSTRUMENTS, fontsize=7)


def _padded(curves: Sequence[np.ndarray]) -> np.ndarray:
  """[curves, longest] float64, NaN behind the end of a curve."""
  table = np.full((len(curves), max((len(curve) for curve in curves), default=0)), np.nan)
  for row, curve in zip(table, curves, strict=True):
    row[: len(curve)] = curve
  return table
