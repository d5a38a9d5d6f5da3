"""Tables and pictures of a run: scores with lost sensors, boxes, curves, look-alikes, attention, and a verdict."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np

from jaxpapers.cmt import figures, scenes
from jaxpapers.cmt.metrics import CLASSES, ERRORS, Scores
from jaxpapers.cmt.sensor_evaluation import SensorEvaluation, look_alikes
from jaxpapers.cmt.steps import Detector
from jaxpapers.cmt.tables import CAMERAS

STAGES = {'masked': 'with masked-modal training', 'plain': 'without it'}
ROWS = {
  'both': 'both sensors',
  'lidar_only_drop': 'no cameras, tokens dropped',
  'lidar_only_zero': 'no cameras, images zeroed',
  'camera_only_drop': 'no LiDAR, tokens dropped',
  'camera_only_zero': 'no LiDAR, points zeroed',
  'front_camera_lost': 'front camera lost',
  'front_camera_left': 'LiDAR and front camera',
}
LOST = ('lidar_only_zero', 'camera_only_zero')
ERROR_NAMES = {
  'trans_err': 'translation (m)',
  'scale_err': 'scale (1 - IoU)',
  'orient_err': 'orientation (rad)',
  'vel_err': 'velocity (m/s)',
}
SHOWN_SCORE = 0.3
_THRESHOLDS = (0.5, 1.0, 2.0, 4.0)
_AT_2M = 2


def scenes_report(
  page: Any,
  detector: Detector,
  states: Mapping[str, Any],
  evaluations: Mapping[str, SensorEvaluation],
  setting: scenes.Surround,
  render: Callable[[Mapping[str, Any]], Mapping[str, jax.Array]],
  rate: Callable[[np.ndarray], jax.Array],
) -> None:
  """All pictures and tables of a run on synthetic scenes.

  Args:
    page: the engine's report.
    detector: of every stage.
    states: final training states by stage.
    evaluations: of the stages.
    setting: of the scenes.
    render: {'scene': int32 [batch]} -> the test's scenes as a batch.
    rate: step -> learning rate.
  """
  for name, state in states.items():
    evaluations[name].ensure(state)
  scores = {name: evaluations[name].scores for name in states}
  first = next(iter(states))
  page.heading('What the sensors are worth')
  for line in verdict({name: {row: s.mean_ap for row, s in found.items()} for name, found in scores.items()}):
    page.text(line)
  _sensors(page, scores)
  page.heading(f'Detections {STAGES[first]}')
  _errors(page, scores[first]['both'])
  test = evaluations[first]
  # The scenes with the most objects show the most.
  both = test.outputs['both']
  fullest = np.argsort(-both['boxes_mask'].sum(1), kind='stable')[:4]
  look = jax.jit(functools.partial(_look, detector, render))
  looked = jax.device_get(look(states[first].variables(), test.scenes[fullest]))
  batch = looked.batch
  shown = {name: value[fullest] for name, value in both.items()}
  pictures(page, batch, shown, scenes.CLASSES, scenes.CAMERAS, setting.pc_range)
  _look_alikes(page, test)
  page.heading('Inside the model')
  _attention(page, looked, both['found_boxes'][fullest[0], 0], setting, detector.model.lidar.pillar_size)
  _references(page, states, setting)
  _training(page, list(states), rate)


def nuscenes_report(page: Any, evaluation: Any, state: Any, pc_range: Sequence[float]) -> None:
  """The official numbers by class, and the first scenes of the evaluation in pictures.

  Args:
    page: the engine's report.
    evaluation: `engine.Evaluation` of the stage.
    state: its final training state.
    pc_range: metres.
  """
  numbers = {
    name.removeprefix(f'{evaluation.name}/'): value
    for values in page.final.values()
    for name, value in values.items()
    if name.startswith(f'{evaluation.name}/')
  }
  page.heading('nuScenes')
  if 'mAP' in numbers:
    page.table(['mAP', 'NDS', *ERRORS], [[numbers[name] for name in ('mAP', 'NDS', *ERRORS)]])
    values = [numbers[f'AP_{name}'] for name in CLASSES]
    figure = figures.bars(CLASSES, {'AP': values}, 'average precision')
    page.figure('classes', figure, 'Average precision by class.')
    plt.close(figure)
  batch = next(iter(evaluation.batches()))
  outputs = jax.device_get(jax.jit(evaluation.step)(state, batch))
  pictures(page, batch, outputs, CLASSES, CAMERAS, pc_range)


def verdict(mean_ap: Mapping[str, Mapping[str, float]]) -> list[str]:
  """What the mAP of {stage: {row: value}} says about the paper's two claims, in sentences."""
  lines = []
  for name, rows in mean_ap.items():
    best = max(LOST, key=lambda row: rows[row])
    gain = rows['both'] - rows[best]
    word = 'Both sensors beat either one' if gain > 0 else 'Both sensors do NOT beat either one'
    lines.append(
      f'{word} ({STAGES[name]}): mAP {rows["both"]:.3f} with both, {rows["lidar_only_zero"]:.3f} with zeroed images, '
      f'{rows["camera_only_zero"]:.3f} with zeroed points.'
    )
  if {'masked', 'plain'} <= set(mean_ap):
    worst = {name: min(mean_ap[name][row] for row in LOST) for name in ('masked', 'plain')}
    cost = mean_ap['plain']['both'] - mean_ap['masked']['both']
    ratio = worst['masked'] / max(worst['plain'], 1e-9)
    holds = 'holds' if worst['masked'] > worst['plain'] else 'does NOT hold'
    times = f'{ratio:.1f} times' if ratio < 100 else 'from nothing'
    lines.append(
      f'That masked-modal training makes the detector survive a lost sensor {holds} here: the worse of the two '
      f'rows with a zeroed sensor goes from {worst["plain"]:.3f} to {worst["masked"]:.3f} ({times}); with both '
      f'sensors it {"costs" if cost > 0 else "gains"} {abs(cost):.3f} mAP. One seed.'
    )
  return lines


def _sensors(page: Any, scores: Mapping[str, Mapping[str, Scores]]) -> None:
  rows = [row for row in ROWS if all(row in found for found in scores.values())]
  header = ['sensors', *(f'{metric} {STAGES[name]}' for metric in ('mAP', 'NDS') for name in scores)]
  table = [
    [ROWS[row]]
    + [float(found[row].mean_ap) for found in scores.values()]
    + [float(found[row].nds) for found in scores.values()]
    for row in rows
  ]
  page.table(
    header,
    table,
    'On the fixed test scenes, by the nuScenes rule (0.5, 1, 2 and 4 m). No scene has attributes: their '
    'error counts as 0 in the NDS.',
  )
  page.results(
    mean_ap={name: {row: found[row].mean_ap for row in rows} for name, found in scores.items()},
    nds={name: {row: found[row].nds for row in rows} for name, found in scores.items()},
  )
  for metric, field in (('mAP', 'mean_ap'), ('NDS', 'nds')):
    series = {STAGES[name]: [getattr(found[row], field) for row in rows] for name, found in scores.items()}
    figure = figures.bars([ROWS[row] for row in rows], series, metric)
    page.figure(f'sensors_{metric.lower()}', figure, f'{metric} with every sensor, and with some lost.')
    plt.close(figure)


def _errors(page: Any, scores: Scores) -> None:
  """The detection score taken apart, and its curves."""
  shown = [ERRORS.index(name) for name in ERROR_NAMES]
  rows = [
    [name, float(scores.ap[k].mean()), *(float(x) for x in scores.ap[k]), *(float(scores.errors[k, e]) for e in shown)]
    for k, name in enumerate(scenes.CLASSES)
  ]
  rows.append(
    ['mean', scores.mean_ap, *(float(x) for x in scores.ap.mean(0)), *(float(scores.mean_errors[e]) for e in shown)]
  )
  at = [f'AP {threshold:g} m' for threshold in _THRESHOLDS]
  page.table(['class', 'AP', *at, *ERROR_NAMES.values()], rows, f'With both sensors; NDS {scores.nds:.3f}.')
  page.results(
    per_class={row[0]: dict(zip(('ap', *at, *ERROR_NAMES), row[1:], strict=True)) for row in rows},
    mean_orientation_error=scores.mean_errors[ERRORS.index('orient_err')],
  )
  figure = figures.precision_recall(scores.curves, scenes.CLASSES, _THRESHOLDS)
  page.figure('precision_recall', figure, 'Precision over recall for each distance within which a box counts as found.')
  plt.close(figure)
  figure = figures.errors_over_recall(scores.curves, scenes.CLASSES, ERROR_NAMES, _AT_2M)
  page.figure('errors', figure, 'Mean errors of the boxes found within 2 m, as ever less confident ones are counted.')
  plt.close(figure)


def pictures(
  page: Any,
  batch: Mapping[str, np.ndarray],
  outputs: Mapping[str, np.ndarray],
  classes: Sequence[str],
  cameras: Sequence[str],
  pc_range: Sequence[float],
) -> None:
  """Scenes from above, and the first one in its cameras.

  Args:
    page: the engine's report.
    batch: points and points_mask, images and lidar2img where there are cameras, boxes and boxes_mask.
    outputs: found_boxes, found_labels, found_scores, found_valid.
    classes: names.
    cameras: names.
    pc_range: metres.
  """
  count = min(4, len(batch['boxes']))
  figure, axes = plt.subplots(1, count, figsize=(4.2 * count, 4.4), squeeze=False, layout='constrained')
  for scene, axis in enumerate(axes[0]):
    figures.from_above(
      axis,
      batch['points'][scene][batch['points_mask'][scene]],
      batch['boxes'][scene][batch['boxes_mask'][scene]],
      *_confident(outputs, scene),
      pc_range,
    )
  marks = [plt.Line2D([], [], color=figures.TRUTH, lw=2.6, label='truth')]
  marks += [plt.Line2D([], [], color=figures.class_colour(k), label=name) for k, name in enumerate(classes)]
  axes[0][0].legend(handles=marks, fontsize=7, loc='lower left')
  page.figure(
    'from_above',
    figure,
    f'Points, truth and boxes scored {SHOWN_SCORE:g} or more; a tick leads through the front, dots to where the '
    'velocity leads in a second.',
  )
  plt.close(figure)
  if 'images' not in batch:
    return
  found, labels, _ = _confident(outputs, 0)
  truth = batch['boxes'][0][batch['boxes_mask'][0]]
  groups = [(truth, [figures.TRUTH] * len(truth)), (found, [figures.class_colour(int(label)) for label in labels])]
  figure = figures.in_cameras(batch['images'][0], batch['lidar2img'][0], groups, cameras)
  page.figure('in_cameras', figure, 'The first scene in the cameras: truth in green, detections in their colours.')
  plt.close(figure)


def _confident(outputs: Mapping[str, np.ndarray], scene: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(boxes, labels, scores) of a scene worth drawing."""
  keep = outputs['found_valid'][scene] & (outputs['found_scores'][scene] >= SHOWN_SCORE)
  return tuple(outputs[f'found_{key}'][scene][keep] for key in ('boxes', 'labels', 'scores'))


def _look_alikes(page: Any, test: SensorEvaluation) -> None:
  names = [scenes.CLASSES[k] for k in scenes.LOOK_ALIKE]
  tables = {ROWS[row]: look_alikes(test.outputs[row], scenes.LOOK_ALIKE) for row in ('both', *LOST)}
  figure = figures.confusion(tables, names, [*names, 'none'])
  page.figure('look_alikes', figure, 'The two posts have one shape: without images their colour cannot be known.')
  plt.close(figure)
  told = {row: float(np.trace(t[:, :2]) / max(1, t[:, :2].sum())) for row, t in tables.items()}
  page.table(['sensors', 'posts told apart'], list(told.items()), 'Of the posts that some post was found for.')
  page.results(posts_told_apart=told)


class _Looked(NamedTuple):
  """Some scenes as a batch; attention [layers, queries, tokens], last logits [queries, classes] and references
  [queries, 3] of the first.
  """

  batch: Mapping[str, Any]
  weights: Any
  logits: Any
  references: Any


def _look(detector: Detector, render: Callable, variables: Any, numbers: jax.Array) -> _Looked:
  """All that the pictures need, as one program."""
  batch = render({'scene': numbers})
  one = {name: value[:1] for name, value in batch.items()}
  output, kept = detector.apply(variables, one, mutable=['intermediates'])
  (weights,) = kept['intermediates']['head']['decoder']['layers']['cross_attention_weights']
  return _Looked(batch, weights[:, 0], output.head.tasks[0]['cls_logits'][-1, 0], output.head.references[0])


def _attention(
  page: Any, looked: _Looked, box: np.ndarray, setting: scenes.Surround, pillar_size: Sequence[float]
) -> None:
  """Cross-attention of the query that found the surest box [9] of the first scene."""
  query = int(looked.logits.max(-1).argmax())
  cameras, height, width = len(scenes.CAMERAS), setting.height // 8, setting.width // 8
  pillars = (np.asarray(setting.pc_range[3:5]) - np.asarray(setting.pc_range[:2])) / pillar_size
  columns, rows = (int(np.ceil(round(n) / 2)) for n in pillars)
  mine, cells = looked.weights[-1, query], rows * columns
  from_lidar, from_cameras = mine[:cells].reshape(rows, columns), mine[cells:].reshape(cameras, height, width)
  low, high = np.asarray(setting.pc_range[:2]), np.asarray(setting.pc_range[3:5])
  reference = looked.references[query, :2] * (high - low) + low
  figure, axis = plt.subplots(figsize=(4.4, 4.2), layout='constrained')
  figures.attention_from_above(axis, from_lidar, setting.pc_range, reference, box)
  page.figure(
    'attention_lidar',
    figure,
    f'Cross-attention (its root) of the surest query to the LiDAR tokens, {from_lidar.sum():.0%} of it; the cross is '
    'its reference point.',
  )
  plt.close(figure)
  images, matrices = looked.batch['images'][0], looked.batch['lidar2img'][0]
  shades = np.kron(np.sqrt(from_cameras / max(from_cameras.max(), 1e-9)), np.ones((8, 8)))
  figure = figures.in_cameras(images, matrices, [([box], ['#40c4ff'])], scenes.CAMERAS, shades)
  page.figure(
    'attention_cameras', figure, f'The same query and the cameras: {from_cameras.sum():.0%} of its attention.'
  )
  plt.close(figure)
  shares = [[k + 1, float(share)] for k, share in enumerate(looked.weights[..., :cells].sum(-1).mean(1))]
  page.table(['layer', 'attention to LiDAR'], shares, 'Mean over heads, and over the queries of that scene.')


def _references(page: Any, states: Mapping[str, Any], setting: scenes.Surround) -> None:
  figure, axes = plt.subplots(1, len(states), figsize=(4.6 * len(states), 4), squeeze=False, layout='constrained')
  for (name, state), axis in zip(states.items(), axes[0], strict=True):
    points = np.clip(np.asarray(state.params['head']['reference_points']), 0, 1)
    drawn = figures.reference_points(axis, points, setting.pc_range)
    axis.set_title(STAGES[name], fontsize=9)
    figure.colorbar(drawn, ax=axis, label='z (m)')
  page.figure('references', figure, 'The learned reference points of the queries.')
  plt.close(figure)


def _training(page: Any, names: Sequence[str], rate: Callable[[np.ndarray], jax.Array]) -> None:
  series = {STAGES[name]: page.history(name, 'loss') for name in names}
  series |= {f'{STAGES[name]}, denoising': _sum(page, name, ('dn_label', 'dn_box')) for name in names}
  figure = figures.curves(series, 'loss of the batch', log=True)
  page.figure('loss', figure, 'Training curves; the loss includes that of the denoising queries.')
  plt.close(figure)
  steps = np.arange(max(page.history(names[0], 'loss')[0], default=1))
  figure = figures.curves({'every stage': (steps, np.asarray(rate(steps)))}, 'learning rate')
  page.figure('learning_rate', figure, 'The schedule.')
  plt.close(figure)


def _sum(page: Any, stage: str, metrics: Sequence[str]) -> tuple[list[int], list[float]]:
  steps, _ = page.history(stage, metrics[0])
  return steps, list(np.sum([page.history(stage, metric)[1] for metric in metrics], axis=0))
