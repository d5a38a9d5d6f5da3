"""The nuScenes detection score (Caesar et al., 2020, section 3.1) of arrays, without loops over boxes.

Predictions and ground truth are tables: one row a box, with the number of its sample. The reference takes each
prediction in order of score and lets it have the nearest object that is still free. That is the only stable matching of
predictions that prefer near objects with objects that all prefer high scores, so it is found here by deferred
acceptance (Gale and Shapley, 1962): all samples, classes and thresholds propose at once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import numpy as np

from jaxpapers.cmt.boxes import yaw_difference
from jaxpapers.engine.errors import UserError

ERRORS = ('trans_err', 'scale_err', 'orient_err', 'vel_err', 'attr_err')
NO_ATTRIBUTE = -1
RECALLS = np.linspace(0, 1, 101)
_PAIRS_AT_ONCE = 2**22

CLASSES = (
  'car',
  'truck',
  'construction_vehicle',
  'bus',
  'trailer',
  'barrier',
  'motorcycle',
  'bicycle',
  'pedestrian',
  'traffic_cone',
)
"""The classes of the nuScenes detection task, in the order of CMT's logits."""


class BoxTable(NamedTuple):
  """Boxes of many samples.

  Attributes:
    sample: int [n], number of the sample.
    center: float [n, 3], metres; matching looks at x and y only.
    size: float [n, 3], metres, in one order for predictions and ground truth.
    yaw: float [n], radians.
    velocity: float [n, 2], m/s; NaN where unknown.
    label: int [n], index into the rules' classes.
    attribute: int [n], `NO_ATTRIBUTE` where there is none.
    score: float [n]; of predictions only.
  """

  sample: np.ndarray
  center: np.ndarray
  size: np.ndarray
  yaw: np.ndarray
  velocity: np.ndarray
  label: np.ndarray
  attribute: np.ndarray
  score: np.ndarray | None = None


class Rules(NamedTuple):
  """What is counted.

  Attributes:
    classes: names.
    periods: per class, after which angle a box looks the same, radians.
    undefined: pairs (class, error) that are left out of means.
    thresholds: of the distance of centres, metres.
    error_threshold: at which of them the errors are measured.
    min_recall: recalls up to this one do not count.
    min_precision: precision that counts as nothing.
    mean_ap_weight: of mAP against each of the five errors.
  """

  classes: tuple[str, ...]
  periods: tuple[float, ...]
  undefined: frozenset[tuple[str, str]] = frozenset()
  thresholds: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
  error_threshold: float = 2.0
  min_recall: float = 0.1
  min_precision: float = 0.1
  mean_ap_weight: float = 5.0


class Scores(NamedTuple):
  """The result of `evaluate`.

  Attributes:
    ap: [classes, thresholds], average precision.
    errors: [classes, 5], in the order of `ERRORS`; NaN where undefined.
    mean_ap: mAP.
    mean_errors: [5], means over the classes.
    nds: the nuScenes detection score.
    curves: name -> [classes, thresholds, 101] over `RECALLS`: recall, precision, confidence and the five errors.
  """

  ap: np.ndarray
  errors: np.ndarray
  mean_ap: float
  mean_errors: np.ndarray
  nds: float
  curves: dict[str, np.ndarray]


def nuscenes_rules(classes: Sequence[str] = CLASSES) -> Rules:
  """The rules `detection_cvpr_2019` for some classes: a barrier has no front, cones neither front nor motion."""
  undefined = {('traffic_cone', error) for error in ('orient_err', 'vel_err', 'attr_err')}
  undefined |= {('barrier', error) for error in ('vel_err', 'attr_err')}
  periods = tuple(np.pi if name == 'barrier' else 2 * np.pi for name in classes)
  return Rules(tuple(classes), periods, frozenset(pair for pair in undefined if pair[0] in classes))


def box_table(
  boxes: np.ndarray,
  labels: np.ndarray,
  mask: np.ndarray,
  scores: np.ndarray | None = None,
  first_sample: int = 0,
) -> BoxTable:
  """The masked boxes of a batch as a table; all get the attribute 0, so the attribute error of a match is 0.

  Args:
    boxes: [batch, n, 9], x, y, z, l, w, h, yaw, vx, vy.
    labels: int [batch, n].
    mask: bool [batch, n], which rows are boxes.
    scores: [batch, n], of predictions.
    first_sample: number of the batch's first sample.
  """
  boxes, labels, mask = np.asarray(boxes, np.float64), np.asarray(labels), np.asarray(mask, bool)
  chex.assert_shape(boxes, (None, None, 9))
  chex.assert_shape([labels, mask], boxes.shape[:2])
  sample, _ = np.nonzero(mask)
  rows = boxes[mask]
  attribute = np.zeros(len(rows), np.int64)
  score = None if scores is None else np.asarray(scores, np.float64)[mask]
  return BoxTable(
    sample + first_sample, rows[:, :3], rows[:, 3:6], rows[:, 6], rows[:, 7:9], labels[mask], attribute, score
  )


def concatenate(tables: Sequence[BoxTable]) -> BoxTable:
  """Tables one below the other; all or none have scores."""
  return BoxTable(*(None if column[0] is None else np.concatenate(column) for column in zip(*tables, strict=True)))


def evaluate(truth: BoxTable, predictions: BoxTable, rules: Rules) -> Scores:
  """Average precision, errors of matched pairs, and the detection score.

  Source: the nuScenes detection score (Caesar et al., CVPR 2020, section 3.1).

  Args:
    truth: ground truth that counts.
    predictions: with scores; of equal scores, the later row comes first.
    rules: classes and limits.

  Raises:
    UserError: for a label that the rules do not name, a size that is not positive, a score or centre that is no number.
  """
  _check(truth, 'ground truth', rules)
  _check(predictions, 'prediction', rules)
  order = np.lexsort((np.arange(len(predictions.score)), predictions.score))[::-1]
  matched = match(truth, predictions, order, rules.thresholds)
  shape = len(rules.classes), len(rules.thresholds)
  curves = {name: np.zeros((*shape, 101)) for name in ('recall', 'precision', 'confidence')}
  curves['recall'][:] = RECALLS
  curves |= {name: np.ones((*shape, 101)) for name in ERRORS}
  for label in range(len(rules.classes)):
    count = int((truth.label == label).sum())
    rows = order[predictions.label[order] == label]
    for place in range(len(rules.thresholds)):
      found = _curves(truth, predictions, rows, matched[place, rows], count, rules.periods[label])
      for name, curve in found.items():
        curves[name][label, place] = curve
  return _summary(curves, rules)


def match(truth: BoxTable, predictions: BoxTable, order: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
  """int [thresholds, predictions]: row of the ground truth that a prediction gets, or -1.

  Predictions take, in the given order, the nearest object of their class in their sample that is still free; if that
  one is not nearer than the threshold they get none.

  Args:
    truth: ground truth.
    predictions: predictions.
    order: int [predictions], rows of the predictions, the first to choose first.
    thresholds: metres.
  """
  count, objects = len(predictions.label), len(truth.label)
  owner, target, distance = _near_pairs(truth, predictions, max(thresholds))
  first = np.searchsorted(owner, np.arange(count))
  # Agents are (threshold, prediction); each has its list of objects, nearest first, up to its threshold.
  within = np.stack([np.bincount(owner[distance < threshold], minlength=count) for threshold in thresholds])
  stop = (first + within).ravel()
  place = np.tile(first, len(thresholds))
  rank = np.empty(count, np.int64)
  rank[order] = np.arange(count)
  holder = np.full(len(thresholds) * objects, count)
  active = np.flatnonzero(place < stop)
  while active.size:
    level, row = np.divmod(active, count)
    slot = level * objects + target[place[active]]
    before = holder[slot]
    np.minimum.at(holder, slot, rank[row])
    won = holder[slot] == rank[row]
    displaced = won & (before < count)
    active = np.concatenate([active[~won], level[displaced] * count + order[before[displaced]]])
    place[active] += 1
    active = active[place[active] < stop[active]]
  matched = np.full((len(thresholds), count), -1)
  taken = np.flatnonzero(holder < count)
  level, row = np.divmod(taken, max(objects, 1))
  matched[level, order[holder[taken]]] = row
  return matched


def _near_pairs(truth: BoxTable, predictions: BoxTable, limit: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Pairs of one sample and class nearer than `limit`: prediction, object, distance; by prediction, then distance."""
  width = 1 + max(truth.label.max(initial=0), predictions.label.max(initial=0))
  keys = truth.sample.astype(np.int64) * width + truth.label
  wanted = predictions.sample.astype(np.int64) * width + predictions.label
  by_key = np.argsort(keys, kind='stable')
  low, high = (np.searchsorted(keys[by_key], wanted, side) for side in ('left', 'right'))
  ends = np.cumsum(high - low)
  owners, targets, distances = [], [], []
  start = 0
  while start < len(wanted):
    done = ends[start - 1] if start else 0
    stop = max(start + 1, int(np.searchsorted(ends, done + _PAIRS_AT_ONCE)))
    sizes = (high - low)[start:stop]
    owner = np.repeat(np.arange(start, start + len(sizes)), sizes)
    inside = np.arange(len(owner)) - np.repeat(ends[start:stop] - sizes - done, sizes)
    target = by_key[low[owner] + inside]
    x, y = (predictions.center[owner, k] - truth.center[target, k] for k in (0, 1))
    distance = np.sqrt(x * x + y * y)
    near = distance < limit
    owners.append(owner[near])
    targets.append(target[near])
    distances.append(distance[near])
    start = stop
  owner, target, distance = (np.concatenate([np.zeros(0, int), *parts]) for parts in (owners, targets, distances))
  owner, target = owner.astype(np.int64), target.astype(np.int64)
  by_owner = np.lexsort((target, distance, owner))
  return owner[by_owner], target[by_owner], distance[by_owner]


def _curves(
  truth: BoxTable, predictions: BoxTable, rows: np.ndarray, matched: np.ndarray, count: int, period: float
) -> dict[str, np.ndarray]:
  """The curves [101] of one class and threshold; none if nothing was found. `rows` in order of score."""
  hit = matched >= 0
  if not hit.any():
    return {}
  found = np.cumsum(hit).astype(float)
  precision, recall = found / np.arange(1, len(rows) + 1), found / count
  confidence = np.interp(RECALLS, recall, predictions.score[rows], right=0)
  curves = {'precision': np.interp(RECALLS, recall, precision, right=0), 'confidence': confidence}
  at = predictions.score[rows[hit]][::-1]
  for name, error in zip(ERRORS, pair_errors(truth, predictions, matched[hit], rows[hit], period), strict=True):
    curves[name] = np.interp(confidence[::-1], at, _running_mean(error)[::-1])[::-1]
  return curves


def pair_errors(
  truth: BoxTable, predictions: BoxTable, objects: np.ndarray, rows: np.ndarray, period: float
) -> tuple[np.ndarray, ...]:
  """The five errors, each [pairs], of predictions `rows` against ground truth `objects`; NaN where undefined."""
  offset = predictions.center[rows, :2] - truth.center[objects, :2]
  volume, other = predictions.size[rows].prod(-1), truth.size[objects].prod(-1)
  common = np.minimum(predictions.size[rows], truth.size[objects]).prod(-1)
  motion = predictions.velocity[rows] - truth.velocity[objects]
  attribute = truth.attribute[objects]
  differs = (attribute != predictions.attribute[rows]).astype(float)
  return (
    np.sqrt((offset**2).sum(-1)),
    1 - common / (volume + other - common),
    yaw_difference(truth.yaw[objects], predictions.yaw[rows], period),
    np.sqrt((motion**2).sum(-1)),
    np.where(attribute == NO_ATTRIBUTE, np.nan, differs),
  )


def _running_mean(values: np.ndarray) -> np.ndarray:
  """Mean of the numbers so far [n]: 0 before the first one, 1 everywhere if there is none."""
  known = ~np.isnan(values)
  if not known.any():
    return np.ones(len(values))
  count = np.cumsum(known)
  return np.divide(np.nancumsum(values), count, out=np.zeros(len(values)), where=count != 0)


def _summary(curves: dict[str, np.ndarray], rules: Rules) -> Scores:
  begin = round(100 * rules.min_recall) + 1
  ap = np.maximum(curves['precision'][..., begin:] - rules.min_precision, 0).mean(-1) / (1 - rules.min_precision)
  level = rules.thresholds.index(rules.error_threshold)
  errors = np.ones((len(rules.classes), len(ERRORS)))
  for label, name in enumerate(rules.classes):
    reached = np.flatnonzero(curves['confidence'][label, level])
    end = reached[-1] if reached.size else 0
    for k, error in enumerate(ERRORS):
      if (name, error) in rules.undefined:
        errors[label, k] = np.nan
      elif end >= begin:
        errors[label, k] = curves[error][label, level, begin : end + 1].mean()
  defined = ~np.isnan(errors)
  mean_errors = np.where(defined, errors, 0).sum(0) / np.maximum(defined.sum(0), 1)
  mean_errors = np.where(defined.any(0), mean_errors, np.nan)
  mean_ap = float(ap.mean(-1).mean())
  credit = np.nansum(np.maximum(0, 1 - mean_errors))
  nds = float((rules.mean_ap_weight * mean_ap + credit) / (rules.mean_ap_weight + len(ERRORS)))
  return Scores(ap, errors, mean_ap, mean_errors, nds, curves)


def _check(table: BoxTable, what: str, rules: Rules) -> None:
  n = len(table.label)
  chex.assert_shape([table.sample, table.yaw, table.label, table.attribute], (n,))
  chex.assert_shape([table.center, table.size], (n, 3))
  chex.assert_shape(table.velocity, (n, 2))
  bad = np.flatnonzero((table.label < 0) | (table.label >= len(rules.classes)))
  if bad.size:
    last = len(rules.classes) - 1
    raise UserError(f'A {what} (row {bad[0]}) has the label {table.label[bad[0]]}; classes are 0..{last}.')
  bad = np.flatnonzero(~(table.size > 0).all(-1))
  if bad.size:
    raise UserError(f'A {what} (row {bad[0]}) has the size {table.size[bad[0]].tolist()}; sizes must be positive.')
  bad = np.flatnonzero(~np.isfinite(table.center).all(-1))
  if bad.size:
    raise UserError(f'A {what} (row {bad[0]}) has the centre {table.center[bad[0]].tolist()}.')
  if what == 'prediction':
    if table.score is None:
      raise UserError('Predictions need scores.')
    chex.assert_shape(table.score, (n,))
    bad = np.flatnonzero(~np.isfinite(table.score))
    if bad.size:
      raise UserError(f'A prediction (row {bad[0]}) has the score {table.score[bad[0]]}.')
