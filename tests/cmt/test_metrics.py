"""The detection score against plain loops, and against the official kit where it is installed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpapers.cmt import metrics
from jaxpapers.engine.errors import UserError

RULES = metrics.nuscenes_rules(('car', 'barrier', 'traffic_cone'))


def random_tables(rng, samples=4, objects=12, predictions=60, spread=4.0, ties=True):
  def table(n, scores):
    score = rng.integers(1, 6, n) / 5 if ties else rng.random(n)
    return metrics.BoxTable(
      rng.integers(0, samples, n),
      rng.uniform(-spread, spread, (n, 3)),
      rng.uniform(0.5, 3, (n, 3)),
      rng.uniform(-4, 4, n),
      np.where(rng.random((n, 1)) < 0.2, np.nan, rng.normal(size=(n, 2))),
      rng.integers(0, 3, n),
      rng.integers(-1, 3, n),
      score if scores else None,
    )

  return table(objects, False), table(predictions, True)


def greedy(truth, predictions, threshold):
  """One prediction after the other takes the nearest free object."""
  order = sorted(range(len(predictions.label)), key=lambda i: (predictions.score[i], i), reverse=True)
  matched, taken = np.full(len(order), -1), set()
  for i in order:
    best, at = np.inf, -1
    for g in range(len(truth.label)):
      same = truth.sample[g] == predictions.sample[i] and truth.label[g] == predictions.label[i]
      if same and g not in taken:
        distance = np.hypot(*(predictions.center[i, :2] - truth.center[g, :2]))
        if distance < best:
          best, at = distance, g
    if best < threshold:
      taken.add(at)
      matched[i] = at
  return np.asarray(order), matched


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.5, 12.0), st.integers(0, 30))
def test_matching_is_the_greedy_one(seed, spread, objects):
  rng = np.random.default_rng(seed)
  truth, predictions = random_tables(rng, samples=2, objects=objects, predictions=50, spread=spread)
  thresholds = (0.5, 2.0, 4.0)
  wanted = [greedy(truth, predictions, threshold) for threshold in thresholds]
  got = metrics.match(truth, predictions, wanted[0][0], thresholds)
  np.testing.assert_array_equal(got, [matched for _, matched in wanted])


def test_pairs_are_found_in_pieces_too(monkeypatch):
  truth, predictions = random_tables(np.random.default_rng(0))
  whole = metrics.evaluate(truth, predictions, RULES)
  monkeypatch.setattr(metrics, '_PAIRS_AT_ONCE', 3)
  pieces = metrics.evaluate(truth, predictions, RULES)
  np.testing.assert_array_equal(whole.ap, pieces.ap)
  assert whole.mean_ap > 0


def test_perfect_predictions_score_one_and_a_moved_one_costs_its_distance():
  rng = np.random.default_rng(1)
  truth, _ = random_tables(rng, objects=30)
  truth = truth._replace(velocity=np.ones((30, 2)), center=rng.uniform(-500, 500, (30, 3)), attribute=np.zeros(30, int))
  found = truth._replace(score=rng.random(30))
  assert metrics.evaluate(truth, found, RULES).nds == pytest.approx(1)
  moved = metrics.evaluate(truth, found._replace(center=truth.center + np.asarray([0.6, 0, 3])), RULES)
  np.testing.assert_allclose(moved.ap, np.broadcast_to([0, 1, 1, 1], (3, 4)), atol=1e-12)
  np.testing.assert_allclose(moved.errors[:, 0], 0.6)
  # Half a turn is seen on a car, not on a barrier; cones have neither front nor motion.
  turned = metrics.evaluate(truth, found._replace(yaw=truth.yaw + np.pi), RULES)
  np.testing.assert_allclose(turned.errors[:, 2], [np.pi, 0, np.nan], atol=1e-9)
  assert np.isnan(turned.errors[2, 2:]).all() and np.isnan(turned.errors[1, 3:]).all()


def test_nothing_found_and_nothing_there_score_zero():
  truth, predictions = random_tables(np.random.default_rng(2))
  none = metrics.BoxTable(*(column[:0] for column in predictions))
  for scores in (
    metrics.evaluate(truth, none, RULES),
    metrics.evaluate(none._replace(score=None), predictions, RULES),
  ):
    assert scores.mean_ap == 0 and scores.nds == 0
    assert set(scores.errors[~np.isnan(scores.errors)]) == {1.0}


def test_batches_become_tables():
  rng = np.random.default_rng(3)
  boxes, mask = rng.uniform(1, 2, (2, 5, 9)), rng.random((2, 5)) < 0.6
  labels, scores = rng.integers(0, 3, (2, 5)), rng.random((2, 5))
  truth = metrics.box_table(boxes, labels, mask, first_sample=7)
  found = metrics.concatenate(
    [metrics.box_table(boxes[i : i + 1], labels[i : i + 1], mask[i : i + 1], scores[i : i + 1], 7 + i) for i in (0, 1)]
  )
  assert metrics.concatenate([truth, truth]).score is None
  np.testing.assert_array_equal(truth.sample, found.sample)
  np.testing.assert_array_equal(found.score, scores[mask])
  np.testing.assert_array_equal(truth.velocity, boxes[mask][:, 7:])
  assert sorted(set(truth.sample)) == [7, 8]


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'label': 3}, r'row 0.*label 3; classes are 0..2'),
    ({'size': 0.0}, 'sizes must be positive'),
    ({'center': np.nan}, 'has the centre'),
    ({'score': np.inf}, 'has the score inf'),
  ],
)
def test_bad_rows_are_named(change, message):
  truth, predictions = random_tables(np.random.default_rng(4))
  for name, value in change.items():
    column = np.array(getattr(predictions, name))
    column[0] = value
    predictions = predictions._replace(**{name: column})
  with pytest.raises(UserError, match=message):
    metrics.evaluate(truth, predictions, RULES)
  with pytest.raises(UserError, match='need scores'):
    metrics.evaluate(truth, truth, RULES)


def test_equals_the_official_kit():
  """The kit's own accumulation on the same boxes."""
  kit = pytest.importorskip('nuscenes.eval.detection.algo', reason='nuscenes-devkit is not installed')
  from nuscenes.eval.common.data_classes import EvalBoxes
  from nuscenes.eval.common.utils import center_distance
  from nuscenes.eval.detection.data_classes import DetectionBox

  truth, predictions = random_tables(np.random.default_rng(5), samples=20, objects=150, predictions=600, spread=9.0)
  attributes = ('vehicle.moving', 'vehicle.parked', 'vehicle.stopped', '')

  def boxes(table):
    made = EvalBoxes()
    for sample in range(20):
      made.add_boxes(
        str(sample),
        [
          DetectionBox(
            str(sample),
            table.center[i],
            table.size[i],
            (np.cos(table.yaw[i] / 2), 0, 0, np.sin(table.yaw[i] / 2)),
            table.velocity[i],
            detection_name=RULES.classes[table.label[i]],
            detection_score=-1.0 if table.score is None else float(table.score[i]),
            attribute_name=attributes[table.attribute[i]],
          )
          for i in np.flatnonzero(table.sample == sample)
        ],
      )
    return made

  in_order = np.argsort(predictions.sample, kind='stable')
  predictions = metrics.BoxTable(*(column[in_order] for column in predictions))
  scores = metrics.evaluate(truth, predictions, RULES)
  for label, name in enumerate(RULES.classes):
    for place, threshold in enumerate(RULES.thresholds):
      data = kit.accumulate(boxes(truth), boxes(predictions), name, center_distance, threshold)
      assert scores.ap[label, place] == pytest.approx(kit.calc_ap(data, 0.1, 0.1), abs=1e-12)
      for error in metrics.ERRORS:
        np.testing.assert_allclose(scores.curves[error][label, place], getattr(data, error), atol=1e-9)
