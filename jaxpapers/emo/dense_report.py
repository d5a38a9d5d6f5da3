"""What a detection or segmentation run shows: pictures beside ground truth, curves, one row a class."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxpapers import engine
from jaxpapers.emo.dense_datasets import Datasets
from jaxpapers.emo.dense_evaluation import DetectionEvaluation, SegmentationEvaluation
from jaxpapers.ops import segmentation as segmentation_ops

LABELS = {
  'untrained': 'before training',
  'frozen_backbone': 'head on a frozen random backbone',
  'dense': 'whole model',
}
SHOWN = 8
MIN_SCORE = 0.3  # of the boxes that are drawn
MANY_CLASSES = 30  # above which a picture of all classes is unreadable


def detection(
  page: engine.Report, evaluations: Mapping[str, DetectionEvaluation], states: Mapping[str, Any], sets: Datasets
) -> None:
  """Baselines, detections drawn beside ground truth, precision-recall curves, AP of each class, confusion.

  Args:
    page: the report.
    evaluations: by stage name; 'dense' is the model of interest.
    states: final states by stage name.
    sets: what it was trained and tested on.
  """
  for name, evaluation in evaluations.items():
    if evaluation.precision is None:  # a finished run that is only reported again
      step = jax.jit(evaluation.step)
      evaluation.summarize(jax.tree.map(np.asarray, step(states[name], batch)) for batch in evaluation.batches())
  _comparison(page, evaluations, ('AP', 'AP50', 'AP75'), 'test/AP50', 'average precision at IoU 0.5')
  main = evaluations['dense']
  page.heading('Training')
  page.figure('curves', _curves(page, list(evaluations), 'test/AP50'), 'Training loss and AP50 on the test set.')
  page.heading('Detections')
  images = next(iter(sets.test()))['image']
  page.figure(
    'detections',
    draw_detections(images, main.examples, sets.names),
    f'Upper rows: ground truth. Lower rows: detections that score above {MIN_SCORE}.',
  )
  result = main.precision
  page.heading('Precision and recall')
  page.figure(
    'precision_recall',
    _precision_recall(result, sets.names),
    'At IoU 0.5: each class, and the mean over classes at IoU 0.5 to 0.95.',
  )
  rows = [
    [name, *(float(values[k]) for values in (result.per_class, result.per_class_50))]
    for k, name in enumerate(sets.names)
  ]
  page.table(['class', 'AP', 'AP50'], rows, 'Average precision of each class')
  page.results(per_class_ap={row[0]: row[1] for row in rows})
  if len(sets.names) <= MANY_CLASSES:
    counts = detection_confusion(main.examples, len(sets.names))
    page.figure(
      'confusion',
      _confusion(counts, [*sets.names, 'none']),
      'First test batch: each object against the best-scoring detection that overlaps it by IoU 0.5 or more.',
    )


def segmentation(
  page: engine.Report,
  evaluations: Mapping[str, SegmentationEvaluation],
  states: Mapping[str, Any],
  sets: Datasets,
  predict: Callable[[Any, np.ndarray], jax.Array],
) -> None:
  """Baselines, masks drawn beside ground truth, IoU of each class, confusion.

  Args:
    page: the report.
    evaluations: by stage name; 'dense' is the model of interest.
    states: final states by stage name.
    sets: what it was trained and tested on.
    predict: (state, image [batch, height, width, 3]) -> classes [batch, height, width].
  """
  for name, evaluation in evaluations.items():
    if evaluation.counts is None:
      step = jax.jit(evaluation.step)
      evaluation.summarize(jax.tree.map(np.asarray, step(states[name], batch)) for batch in evaluation.batches())
  _comparison(page, evaluations, ('mIoU', 'mAcc', 'aAcc'), 'test/mIoU', 'mean IoU')
  main = evaluations['dense']
  page.heading('Training')
  page.figure('curves', _curves(page, list(evaluations), 'test/mIoU'), 'Training loss and mean IoU on the test set.')
  page.heading('Masks')
  batch = next(iter(sets.test()))
  image = batch['image'][:SHOWN]
  predicted = np.asarray(jax.jit(predict)(states['dense'], image))
  truth = batch['label'][:SHOWN] if 'label' in batch else None
  caption = 'From top to bottom: image, predicted classes'
  page.figure(
    'masks',
    draw_masks(image, truth, predicted, len(sets.names)),
    caption + ('.' if truth is None else ', true classes (ignored pixels hatched).'),
  )
  metrics = segmentation_ops.iou_metrics(main.counts)
  rows = [[name, float(metrics['IoU'][k]), float(metrics['Acc'][k])] for k, name in enumerate(sets.names)]
  page.heading('Classes')
  page.table(['class', 'IoU', 'accuracy'], rows)
  page.results(per_class_iou={row[0]: row[1] for row in rows})
  if len(sets.names) <= MANY_CLASSES:
    page.figure('confusion', _confusion(main.counts, sets.names), 'Share of the pixels of each class, by prediction.')


def _comparison(
  page: engine.Report, evaluations: Mapping[str, Any], names: Sequence[str], key: str, words: str
) -> None:
  page.heading('Is training the backbone worth it?')
  rows = [[LABELS[stage], *(page.final.get(stage, {}).get(f'test/{n}') for n in names)] for stage in evaluations]
  page.table(['model', *names], rows)
  values = {stage: page.final.get(stage, {}).get(key) for stage in evaluations}
  if len(values) > 1 and None not in values.values():
    page.text(
      f'Same data, order, steps and recipe, one seed; {words}: {values["dense"]:.3f} for the whole model, '
      f'{values["frozen_backbone"]:.3f} for the same head on a frozen random backbone, {values["untrained"]:.3f} '
      'before training.'
    )
    page.results(baselines=values)


def _curves(page: engine.Report, stages: Sequence[str], key: str) -> Any:
  from matplotlib.figure import Figure

  figure = Figure(figsize=(10, 3.6))
  left, right = figure.subplots(1, 2)
  for index, stage in enumerate(stages):
    if stage == 'untrained':
      continue
    left.plot(*page.history(stage, 'loss'), color=f'C{index}', label=LABELS[stage])
    right.plot(*page.history(stage, key), color=f'C{index}', marker='.', label=LABELS[stage])
  left.set(xlabel='step', ylabel='training loss')
  right.set(xlabel='step', ylabel=key, ylim=(0, 1))
  right.legend()
  return figure


def draw_detections(images: np.ndarray, outputs: Mapping[str, np.ndarray], names: Sequence[str]) -> Any:
  """Ground truth above, detections below.

  Args:
    images: uint8 [batch, height, width, 3], as the model got them.
    outputs: of DetectionEvaluation.step for the same batch; its boxes are those of the original images.
    names: of the classes.
  """
  from matplotlib.figure import Figure

  chosen = np.flatnonzero(outputs['valid'])[:SHOWN]
  figure = Figure(figsize=(2.2 * len(chosen), 4.6))
  axes = figure.subplots(2, len(chosen), squeeze=False)
  for column, i in enumerate(chosen):
    scale = outputs['scale'][i]
    truth = outputs['truth_valid'][i]
    found = outputs['found_valid'][i] & (outputs['found_scores'][i] > MIN_SCORE)
    for axis, boxes, labels, scores in (
      (axes[0, column], outputs['boxes'][i][truth], outputs['labels'][i][truth], None),
      (
        axes[1, column],
        outputs['found_boxes'][i][found],
        outputs['found_labels'][i][found],
        outputs['found_scores'][i][found],
      ),
    ):
      axis.imshow(images[i])
      axis.axis('off')
      _draw_boxes(axis, boxes * scale[[1, 0, 1, 0]], labels, scores, names)
  return figure


def _draw_boxes(axis: Any, boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray | None, names: Sequence[str]):
  from matplotlib.patches import Rectangle

  for j, (x1, y1, x2, y2) in enumerate(boxes):
    color = f'C{labels[j] % 10}'
    axis.add_patch(Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=1.5))
    text = names[labels[j]] if scores is None else f'{names[labels[j]]} {scores[j]:.2f}'
    axis.text(x1, y1 - 1, text, fontsize=6, color='white', backgroundcolor=color, va='bottom').set_bbox(
      {'facecolor': color, 'edgecolor': 'none', 'pad': 1}
    )


def _precision_recall(result: Any, names: Sequence[str]) -> Any:
  from matplotlib.figure import Figure

  figure = Figure(figsize=(10, 4))
  left, right = figure.subplots(1, 2)
  many = len(names) > MANY_CLASSES
  for k, name in enumerate(names):
    left.plot(
      result.recall,
      result.precision[0, :, k],
      color=f'C{k % 10}',
      label=None if many else name,
      alpha=0.3 if many else 1,
    )
  for t, threshold in enumerate(result.thresholds):
    right.plot(result.recall, np.nanmean(result.precision[t], axis=1), color=str(0.08 * t), label=f'{threshold:.2f}')
  for axis, title in ((left, 'IoU 0.5'), (right, 'mean over classes, by IoU')):
    axis.set(xlabel='recall', ylabel='precision', ylim=(0, 1.02), xlim=(0, 1), title=title)
    if axis is right or not many:
      axis.legend(fontsize=7)
  return figure


def detection_confusion(outputs: Mapping[str, np.ndarray], classes: int) -> np.ndarray:
  """[classes + 1, classes + 1] counts of (true class, detected class); the last index is "none".

  Each object, in order, takes the free detection of highest score above MIN_SCORE that overlaps it by IoU >= 0.5,
  whatever its class; detections that are left over are false alarms.
  """
  counts = np.zeros((classes + 1, classes + 1), int)
  for i in np.flatnonzero(outputs['valid']):
    good = outputs['found_valid'][i] & (outputs['found_scores'][i] > MIN_SCORE)
    boxes, labels = outputs['found_boxes'][i][good], outputs['found_labels'][i][good]
    free = np.ones(len(boxes), bool)
    for j in np.flatnonzero(outputs['truth_valid'][i]):
      hits = np.flatnonzero(free & (_overlap(outputs['boxes'][i][j], boxes) >= 0.5))
      counts[outputs['labels'][i][j], labels[hits[0]] if len(hits) else classes] += 1
      free[hits[:1]] = False
    np.add.at(counts[classes], labels[free], 1)
  return counts


def _overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
  side = np.maximum(np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2]), 0)
  overlap = side.prod(axis=1)
  union = np.prod(box[2:] - box[:2]) + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) - overlap
  return overlap / np.maximum(union, 1e-6)


def _confusion(counts: np.ndarray, names: Sequence[str]) -> Any:
  from matplotlib.figure import Figure

  share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
  side = 2.5 + 0.4 * len(names)
  figure = Figure(figsize=(side, side))
  axis = figure.subplots()
  axis.imshow(share, vmin=0, vmax=1, cmap='Blues')
  axis.set(xlabel='predicted', ylabel='true')
  axis.set_xticks(range(len(names)), names, rotation=90)
  axis.set_yticks(range(len(names)), names)
  for i, j in np.argwhere(share >= 0.01):
    axis.text(
      j, i, f'{share[i, j]:.2f}', ha='center', va='center', fontsize=7, color='white' if share[i, j] > 0.5 else 'black'
    )
  return figure


def draw_masks(images: np.ndarray, truth: np.ndarray | None, predicted: np.ndarray, classes: int) -> Any:
  """Rows: images, predicted classes over them and, where known, true classes with ignored pixels hatched."""
  from matplotlib import colormaps
  from matplotlib.figure import Figure

  palette = colormaps['tab10' if classes <= 10 else 'gist_ncar']
  rows = [None, predicted] + ([] if truth is None else [truth])
  figure = Figure(figsize=(1.8 * len(images), 1.9 * len(rows)))
  axes = figure.subplots(len(rows), len(images), squeeze=False)
  for row, labels in enumerate(rows):
    for i, axis in enumerate(axes[row]):
      # Grey below the masks, so that their colours are those of the classes.
      axis.imshow(images[i] if labels is None else images[i].mean(axis=-1), cmap='gray')
      axis.axis('off')
      if labels is not None:
        ignored = labels[i] == segmentation_ops.IGNORE
        share = labels[i] if classes <= 10 else labels[i] / classes
        overlay = palette(share)
        overlay[..., 3] = np.where(ignored, 0, 0.65)
        axis.imshow(overlay)
        if ignored.any():
          axis.contourf(ignored, levels=[0.5, 1.5], colors='none', hatches=['////'])
  return figure
