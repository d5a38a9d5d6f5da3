"""Pictures of attacks on distilled sets."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from jaxpapers.doorping.distilling import History
from jaxpapers.doorping.rates import interval
from jaxpapers.doorping.trigger import pixel_range

_BARS = (
  ('cta', 'CTA', 'tab:blue'),
  ('asr_raw', 'ASR', 'tab:red'),
  ('asr_uint8', 'ASR uint8', 'tab:orange'),
  ('control_clean_raw', 'control', 'silver'),
  ('control_clean_uint8', 'control uint8', 'dimgray'),
)


def outside(patch: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
  """Distance of every value of a patch [..., channels] from the pixel range, in normalised units."""
  low, high = pixel_range(mean, std)
  # Float32 rounding at the ends of the range is no distance.
  beyond = np.maximum(np.maximum(low - patch, patch - high), 0.0)
  return np.where(beyond > 1e-5, beyond, 0.0)


def bars(page: Any, rates: Mapping[str, Mapping[str, np.ndarray]]) -> None:
  """Clean accuracy and attack success per attack, with every victim as a point.

  Args:
    page: the engine's Report.
    rates: {title of an attack: {name: [seeds, victims]}}.
  """
  figure, axis = plt.subplots(figsize=(2.2 + 2.1 * len(rates), 3.8), layout='constrained')
  width = 0.8 / len(_BARS)
  for place, (name, label, color) in enumerate(_BARS):
    for group, row in enumerate(rates.values()):
      if name not in row:
        continue
      x, found = group + (place - (len(_BARS) - 1) / 2) * width, interval(row[name])
      axis.bar(x, found.mean, width * 0.92, color=color, label=label)
      axis.scatter(np.full(row[name].size, x), row[name].ravel(), s=8, color='black', zorder=3)
      if not np.isnan(found.low):
        axis.errorbar(
          x, found.mean, [[found.mean - found.low], [found.high - found.mean]], color='black', capsize=2, lw=0.8
        )
  axis.set_xticks(range(len(rates)), [title.replace(', ', ',\n') for title in rates])
  axis.set(ylim=(0.0, 1.05), ylabel='rate on the test set')
  labels = dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True))
  axis.legend(
    labels.values(), labels.keys(), fontsize=8, ncols=len(labels), loc='lower center', bbox_to_anchor=(0.5, 1)
  )
  page.figure('attacks', figure, 'Points are victims, whiskers 95% intervals. Control: the trigger on clean victims.')
  plt.close(figure)


def curves(page: Any, titles: Mapping[str, str]) -> None:
  """CTA and ASR of victims trained between iterations, where the run measured them; bands are one deviation.

  Args:
    page: the engine's Report, with metrics `curve/ATTACK/NAME` and `curve/ATTACK/NAME_sd` of the stage 'distill'.
    titles: of the attacks.
  """
  panels = (('cta', 'CTA'), ('asr_raw', 'ASR, trigger as it is'), ('asr_uint8', 'ASR, trigger as uint8'))
  if not any(page.history('distill', f'curve/{name}/cta')[0] for name in titles):
    return
  figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), sharey=True, layout='constrained')
  for axis, (metric, label) in zip(axes, panels, strict=True):
    for color, (name, title) in enumerate(titles.items()):
      steps, mean = (np.asarray(x) for x in page.history('distill', f'curve/{name}/{metric}'))
      if not len(steps):
        continue
      spread = np.asarray(page.history('distill', f'curve/{name}/{metric}_sd')[1])
      axis.plot(steps, mean, marker='o', color=f'C{color}', label=title)
      axis.fill_between(steps, mean - spread, mean + spread, color=f'C{color}', alpha=0.2, lw=0)
    axis.set(title=label, xlabel='iteration', ylim=(-0.02, 1.02))
  axes[0].set_ylabel('rate on the test set')
  axes[0].legend(fontsize=8)
  page.figure('curves', figure, 'Victims trained on the distilled sets as they were; bands are one deviation.')
  plt.close(figure)


def grids(page: Any, sets: Mapping[str, np.ndarray], target: int) -> None:
  """Distilled images, rows are classes; the target's row is framed.

  Args:
    page: the engine's Report.
    sets: {title: [classes, images per class, height, width, channels]}, pixels in [0, 1].
    target: the attacked label.
  """
  classes, count, height, width, _ = next(iter(sets.values())).shape
  classes, count = min(classes, 20), min(count, 10)
  size = 3.4
  figure, axes = plt.subplots(
    1, len(sets), figsize=(size * len(sets), size * classes * height / (count * width) + 0.4), squeeze=False
  )
  for axis, (title, images) in zip(axes[0], sets.items(), strict=True):
    shown = np.full((classes * (height + 1) + 1, count * (width + 1) + 1, 3), 1.0)
    for row in range(classes):
      for column in range(count):
        top, left = row * (height + 1) + 1, column * (width + 1) + 1
        shown[top : top + height, left : left + width] = images[row, column]
    axis.imshow(shown, interpolation='nearest')
    if target < classes:
      frame = plt.Rectangle(
        (-0.5, target * (height + 1) - 0.5),
        shown.shape[1],
        height + 2,
        fill=False,
        color='tab:red',
        lw=2,
        clip_on=False,
      )
      axis.add_patch(frame)
    axis.set_title(title.replace(', ', ',\n'), fontsize=10)
    axis.set_xticks([])
    axis.set_yticks((np.arange(classes) + 0.5) * (height + 1), range(classes), fontsize=8)
    axis.tick_params(length=0)
    for side in axis.spines.values():
      side.set_visible(False)
  axes[0, 0].set_ylabel('class (target framed)')
  figure.tight_layout()
  page.figure('distilled', figure, 'Distilled images of the first seed, clipped to the pixel range for display.')
  plt.close(figure)


def trigger_paths(page: Any, patches: Mapping[str, np.ndarray], mean: np.ndarray, std: np.ndarray) -> None:
  """Every pixel of the patch over the iterations, how far it leaves the range, and what a file would hold.

  Args:
    page: the engine's Report.
    patches: {title: [iterations + 1, rows, columns, channels]}, normalised.
    mean: [channels] of the normalisation.
    std: [channels].
  """
  low, high = pixel_range(mean, std)
  count = len(patches)
  figure, axes = plt.subplots(3, count, figsize=(5.2 * count, 7.2), squeeze=False, layout='constrained')
  for column, (title, patch) in enumerate(patches.items()):
    flat = patch.reshape(len(patch), -1)
    axes[0, column].plot(flat, lw=1.2, color='tab:red', alpha=0.8 if flat.shape[1] <= 16 else 0.3)
    axes[0, column].axhspan(float(low.min()), float(high.max()), color='tab:green', alpha=0.3, label='pixel range')
    axes[0, column].set(title=title.replace(', ', ',\n'), ylabel='normalised value')
    axes[0, column].legend(fontsize=8)
    axes[1, column].plot(outside(patch, mean, std).reshape(len(patch), -1).max(1), color='black')
    axes[1, column].set(ylabel='largest distance outside', xlabel='iteration')
    axes[1, column].set_ylim(bottom=0.0)
    for axis in axes[:2, column]:
      axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes[1, column].get_ylim()[1] < 1.0:
      axes[1, column].set_ylim(0.0, 1.0)
    times = np.unique(np.linspace(0, len(patch) - 1, 9).astype(int))
    strip = np.clip(patch[times] * std + mean, 0.0, 1.0)
    rows, columns = patch.shape[1:3]
    picture = np.full((rows, len(times) * (columns + 1) - 1, 3), (0.75, 0.85, 1.0))
    for place, image in enumerate(strip):
      picture[:, place * (columns + 1) : place * (columns + 1) + columns] = image
    axes[2, column].imshow(picture, interpolation='nearest')
    axes[2, column].set_xticks(np.arange(len(times)) * (columns + 1) + (columns - 1) / 2, times)
    axes[2, column].set_yticks([])
    axes[2, column].set(title='clipped to the pixel range', xlabel='iteration')
  page.figure(
    'trigger', figure, 'The trigger of the first seed: every value of the patch, and its way out of the range.'
  )
  plt.close(figure)


def distances(page: Any, lanes: Mapping[str, int], history: History) -> None:
  """Gradient distance over the iterations: its parts by layer for the first attack, and the sum for all.

  Args:
    page: the engine's Report.
    lanes: {title: lane}.
    history: see History; numpy.
  """
  figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), layout='constrained')
  title, index = next(iter(lanes.items()))
  steps = np.arange(1, history.loss.shape[1] + 1)
  if history.layers:
    parts = {name: values[index] for name, values in history.layers.items()}
    order = sorted(parts, key=lambda name: -parts[name].mean())
    axes[0].stackplot(steps, [parts[name] for name in order], labels=order, alpha=0.8)
    axes[0].legend(fontsize=8, loc='lower left')
    axes[0].set_title(f'by layer: {title}')
  for label, lane in lanes.items():
    axes[1].plot(steps, history.loss[lane], label=label, lw=1.2)
  axes[1].legend(fontsize=8)
  axes[1].set_title('sum over layers')
  for axis in axes:
    axis.set(xlabel='iteration', ylabel='distance per class')
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
  page.figure('distance', figure, 'Distance of the gradients on real and distilled images, first seed.')
  plt.close(figure)
