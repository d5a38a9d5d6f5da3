"""Pictures of detections: from above, in the cameras, as curves and as bars. Nothing here knows a model."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxpapers.cmt.boxes import EDGES, corners

TRUTH = '#1b9e4b'
_PALETTE = (
  '#1f5fa8',
  '#8a5a2b',
  '#c8322b',
  '#e08a00',
  '#7b3fa0',
  '#00838f',
  '#c2185b',
  '#5d6d1e',
  '#455a64',
  '#9e7c00',
)


def class_colour(label: int) -> str:
  """The colour of a class in every picture."""
  return _PALETTE[label % len(_PALETTE)]


def from_above(
  axis: Axes,
  points: np.ndarray,
  truth: np.ndarray,
  found: np.ndarray,
  labels: np.ndarray,
  scores: np.ndarray,
  pc_range: Sequence[float],
) -> None:
  """Points, ground truth, predictions with their headings, and range rings.

  Args:
    axis: to draw on.
    points: [points, 3 or more], those to show.
    truth: [objects, 9].
    found: [predictions, 9].
    labels: [predictions] int, which colour them.
    scores: [predictions], which fade them.
    pc_range: metres; what is shown.
  """
  reach = max(pc_range[3], pc_range[4])
  for radius in np.linspace(0, reach, 5)[1:]:
    axis.add_patch(plt.Circle((0, 0), radius, fill=False, color='0.85', lw=0.8, zorder=0))
    axis.text(0, radius, f'{radius:g} m', fontsize=6, color='0.6', ha='center', va='bottom', clip_on=True)
  axis.scatter(points[:, 0], points[:, 1], s=1.2, c='0.55', lw=0, zorder=1)
  axis.plot(0, 0, marker='+', color='black', ms=7)
  for box in truth:
    _footprint(axis, box, TRUTH, 2.6, 0.75, zorder=2)
  for box, label, score in zip(found, labels, scores, strict=True):
    _footprint(axis, box, class_colour(int(label)), 1.4, 0.35 + 0.65 * float(score), zorder=3)
  axis.set(
    xlim=(pc_range[0], pc_range[3]), ylim=(pc_range[1], pc_range[4]), aspect='equal', xlabel='x (m)', ylabel='y (m)'
  )


def _footprint(axis: Axes, box: np.ndarray, colour: str, width: float, alpha: float, zorder: int) -> None:
  """The rectangle of a box, a tick from its centre through the front, and where its velocity leads in a second."""
  ring = corners(np.asarray(box, np.float32))[[0, 3, 7, 4, 0], :2]
  axis.plot(*ring.T, color=colour, lw=width, alpha=alpha, zorder=zorder)
  ahead = np.array([np.cos(box[6]), np.sin(box[6])]) * (box[3] / 2 + 0.5)
  axis.plot(*np.stack([box[:2], box[:2] + ahead], axis=1), color=colour, lw=width, alpha=alpha, zorder=zorder)
  if np.hypot(box[7], box[8]) > 0.3:
    axis.plot(*np.stack([box[:2], box[:2] + box[7:9]], axis=1), ':', color=colour, lw=1, alpha=alpha, zorder=zorder)


def in_cameras(
  images: np.ndarray,
  lidar2img: np.ndarray,
  groups: Sequence[tuple[np.ndarray, Sequence[str]]],
  names: Sequence[str],
  shades: np.ndarray | None = None,
) -> Figure:
  """The images with the edges of boxes drawn into them.

  Args:
    images: [cameras, height, width, 3] BGR, 0 to 255.
    lidar2img: [cameras, 4, 4].
    groups: pairs of boxes [n, 9] and their n colours, drawn one after the other.
    names: of the cameras.
    shades: [cameras, height, width] in 0 to 1, laid over the images; None lays nothing.
  """
  columns = min(3, len(images))
  rows = -(-len(images) // columns)
  height, width = images.shape[1:3]
  size = (4 * columns, 4 * columns * rows * height / width / columns + 0.4 * rows)
  figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout='constrained')
  for axis in axes.flat[len(images) :]:
    axis.set_axis_off()
  for camera, axis in enumerate(axes.flat[: len(images)]):
    axis.imshow(np.clip(images[camera, ..., ::-1], 0, 255).astype(np.uint8), extent=(0, width, height, 0))
    if shades is not None:
      axis.imshow(shades[camera], cmap='inferno', alpha=0.5, vmin=0, vmax=1, extent=(0, width, height, 0))
    for boxes, colours in groups:
      for box, colour in zip(boxes, colours, strict=True):
        _wire(axis, box, lidar2img[camera], colour)
    axis.set(xlim=(0, width), ylim=(height, 0), xticks=(), yticks=())
    axis.set_title(names[camera], fontsize=9)
  return figure


def _wire(axis: Axes, box: np.ndarray, matrix: np.ndarray, colour: str) -> None:
  place = np.concatenate([corners(np.asarray(box, np.float64)), np.ones((8, 1))], axis=1) @ matrix.T
  for one, other in EDGES:
    ends = _ahead(place[one], place[other])
    if ends is not None:
      # The front is drawn thicker: it shows the heading.
      axis.plot(*(ends[:, :2] / ends[:, 2:3]).T, color=colour, lw=2.4 if min(one, other) > 3 else 1.1)


def _ahead(one: np.ndarray, other: np.ndarray, near: float = 0.1) -> np.ndarray | None:
  """The part of an edge [2, 4] that lies in front of the camera, or None."""
  if max(one[2], other[2]) <= near:
    return None
  ends = np.stack([one, other]).astype(float)
  for k in (0, 1):
    if ends[k, 2] < near:
      part = (near - ends[k, 2]) / (ends[1 - k, 2] - ends[k, 2])
      ends[k] += part * (ends[1 - k] - ends[k])
  return ends


def precision_recall(curves: Mapping[str, np.ndarray], classes: Sequence[str], thresholds: Sequence[float]) -> Figure:
  """Precision over recall, a panel a class, a line a threshold of distance.

  Args:
    curves: of `metrics.Scores`.
    classes: names.
    thresholds: metres.
  """
  columns = min(4, len(classes))
  rows = -(-len(classes) // columns)
  figure, axes = plt.subplots(
    rows, columns, figsize=(2.9 * columns, 2.8 * rows), squeeze=False, sharex=True, sharey=True, layout='constrained'
  )
  for axis in axes.flat[len(classes) :]:
    axis.set_axis_off()
  for index, (name, axis) in enumerate(zip(classes, axes.flat, strict=False)):
    for place, threshold in enumerate(thresholds):
      shade = plt.cm.viridis(0.9 * place / max(1, len(thresholds) - 1))
      axis.plot(
        curves['recall'][index, place], curves['precision'][index, place], color=shade, label=f'{threshold:g} m'
      )
    axis.set(title=name, xlim=(0, 1), ylim=(0, 1.02))
    axis.grid(color='0.9')
  for axis in axes[-1]:
    axis.set_xlabel('recall')
  for axis in axes[:, 0]:
    axis.set_ylabel('precision')
  axes.flat[0].legend(fontsize=7, title='distance below', title_fontsize=7, loc='lower left')
  return figure


def errors_over_recall(
  curves: Mapping[str, np.ndarray], classes: Sequence[str], labels: Mapping[str, str], place: int
) -> Figure:
  """Errors of the matched boxes as the recall grows, a panel an error, a line a class.

  Args:
    curves: of `metrics.Scores`.
    classes: names.
    labels: {name of an error's curve: axis label}.
    place: which threshold.
  """
  figure, axes = plt.subplots(1, len(labels), figsize=(3 * len(labels), 2.8), squeeze=False, layout='constrained')
  for (name, label), axis in zip(labels.items(), axes[0], strict=True):
    for index, title in enumerate(classes):
      reached = curves['confidence'][index, place] > 0
      axis.plot(
        curves['recall'][index, place][reached],
        curves[name][index, place][reached],
        color=class_colour(index),
        label=title,
      )
    axis.set(xlabel='recall', title=label, xlim=(0, 1), ylim=(0, None))
    axis.grid(color='0.9')
  axes[0][0].legend(fontsize=7)
  return figure


def bars(rows: Sequence[str], series: Mapping[str, Sequence[float]], label: str) -> Figure:
  """Groups of bars with their numbers.

  Args:
    rows: names of the groups.
    series: {name: a value per group}.
    label: of the values.
  """
  figure, axis = plt.subplots(figsize=(1.6 + 1.3 * len(rows), 3.4), layout='constrained')
  width = 0.8 / len(series)
  for place, (name, values) in enumerate(series.items()):
    at = np.arange(len(rows)) + (place - (len(series) - 1) / 2) * width
    drawn = axis.bar(at, values, width * 0.94, label=name, color=('#1f5fa8', '#e08a00', '0.6')[place % 3])
    axis.bar_label(drawn, fmt='%.2f', fontsize=7, padding=1)
  axis.set_xticks(np.arange(len(rows)), [name.replace(', ', ',\n') for name in rows], fontsize=8)
  axis.set(ylabel=label, ylim=(0, max(0.1, 1.3 * max(max(v) for v in series.values()))))
  axis.legend(fontsize=8, loc='upper right')
  axis.spines[['top', 'right']].set_visible(False)
  return figure


def confusion(tables: Mapping[str, np.ndarray], rows: Sequence[str], columns: Sequence[str]) -> Figure:
  """Tables of counts [rows, columns] as shares of their rows, one beside the other."""
  figure, axes = plt.subplots(1, len(tables), figsize=(3.1 * len(tables), 2.9), squeeze=False, layout='constrained')
  for (title, table), axis in zip(tables.items(), axes[0], strict=True):
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axis.imshow(share, cmap='Blues', vmin=0, vmax=1, aspect='auto')
    for (row, column), value in np.ndenumerate(share):
      text = f'{value:.0%}\n({table[row, column]:.0f})'
      axis.text(column, row, text, ha='center', va='center', fontsize=8, color='white' if value > 0.55 else 'black')
    axis.set_xticks(range(len(columns)), columns, fontsize=7)
    axis.set_yticks(range(len(rows)), rows, fontsize=7, rotation=90, va='center')
    axis.set_title(title, fontsize=9)
    axis.set_xlabel('best box within 2 m', fontsize=8)
  axes[0][0].set_ylabel('truth', fontsize=8)
  return figure


def attention_from_above(
  axis: Axes, weights: np.ndarray, pc_range: Sequence[float], reference: np.ndarray, box: np.ndarray
) -> None:
  """The root of the attention to LiDAR tokens [Y, X], with the query's reference point [2] (m) and its box [9]."""
  extent = (pc_range[0], pc_range[3], pc_range[1], pc_range[4])
  axis.imshow(np.sqrt(weights), origin='lower', extent=extent, cmap='inferno', interpolation='nearest')
  axis.plot(*reference, marker='x', color='#40c4ff', ms=8, mew=2)
  _footprint(axis, box, '#40c4ff', 1.6, 1.0, zorder=3)
  axis.set(xlim=extent[:2], ylim=extent[2:], aspect='equal', xlabel='x (m)', ylabel='y (m)')


def reference_points(axis: Axes, points: np.ndarray, pc_range: Sequence[float]) -> Any:
  """Reference points [queries, 3] in units of the range, seen from above; the colour is the height in metres."""
  low, high = np.asarray(pc_range[:3]), np.asarray(pc_range[3:])
  x, y, z = (points * (high - low) + low).T
  drawn = axis.scatter(x, y, c=z, s=26, cmap='viridis', edgecolors='black', linewidths=0.4)
  axis.plot(0, 0, marker='+', color='black', ms=7)
  axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect='equal', xlabel='x (m)', ylabel='y (m)')
  return drawn


def curves(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], label: str, log: bool = False) -> Figure:
  """Lines over steps: {name: (steps, values)}."""
  figure, axis = plt.subplots(figsize=(6, 3.2), layout='constrained')
  for name, (steps, values) in series.items():
    axis.plot(steps, values, label=name)
  axis.set(xlabel='step', ylabel=label)
  if log:
    axis.set_yscale('log')
  axis.grid(color='0.9')
  axis.legend(fontsize=8)
  return figure
