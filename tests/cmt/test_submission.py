"""Detections written, read and evaluated."""

import json

import numpy as np
import pytest

from jaxpapers.cmt import evaluation, metrics, nuscenes, submission
from jaxpapers.engine.errors import UserError
from tests.cmt import nuscenes_set

SPLIT = 'mini_val'


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
  return nuscenes.NuScenes(nuscenes_set.write(tmp_path_factory.mktemp('nuscenes')))


def perfect(dataset):
  """The annotated boxes as detections."""
  results = {}
  for token in dataset.tokens(SPLIT):
    frame = dataset.frame(token)
    kept = np.isin(frame.objects.names, metrics.CLASSES)
    boxes = frame.objects.boxes[kept]
    labels = [metrics.CLASSES.index(name) for name in frame.objects.names[kept]]
    scores = np.linspace(0.9, 0.5, len(boxes))
    results[token] = submission.sample_results(token, frame.lidar2ego, frame.ego2global, boxes, scores, labels)
  return results


def write(path, results):
  submission.write_submission(path, results)
  return path


def test_annotations_given_back_are_perfect(dataset, tmp_path):
  results = perfect(dataset)
  found = evaluation.evaluate_submission(dataset, SPLIT, write(tmp_path / 'results.json', results))
  # The bicycle in the rack counts neither as object nor as detection.
  assert {name for name, ap in found['mean_dist_aps'].items() if ap > 0} == {'car', 'pedestrian'}
  assert found['mean_ap'] == pytest.approx(0.2)
  assert found['n_gt_after_filter'] == found['n_pred_after_filter'] == 9
  for error, value in found['label_tp_errors']['car'].items():
    # The sensors' tilt is lost with the roll and pitch of a box.
    assert value < (0.05 if error in ('orient_err', 'vel_err') else 1e-6), error
  record = results['scene-0103-0'][0]
  annotation = dataset.frame('scene-0103-0').objects
  np.testing.assert_allclose(record['translation'], annotation.translation[0], atol=1e-9)
  np.testing.assert_allclose(record['size'], annotation.size[0])
  assert record['attribute_name'] == 'vehicle.moving'


def test_equals_the_official_kit(dataset, tmp_path):
  pytest.importorskip('nuscenes.eval.detection.evaluate', reason='nuscenes-devkit is not installed')
  from nuscenes import NuScenes
  from nuscenes.eval.common.config import config_factory
  from nuscenes.eval.detection.evaluate import DetectionEval

  results, rng = perfect(dataset), np.random.default_rng(0)
  for records in results.values():
    for record in list(records):
      for _ in range(20):
        moved = {**record, 'detection_score': float(rng.integers(1, 9) / 9)}
        moved['translation'] = (np.asarray(record['translation']) + rng.normal(0, 1.2, 3)).tolist()
        records.append(moved)
  path = write(tmp_path / 'results.json', results)
  kit = NuScenes(nuscenes_set.VERSION, str(dataset.root), verbose=False)
  config = config_factory('detection_cvpr_2019')
  wanted = DetectionEval(kit, config, str(path), SPLIT, str(tmp_path), verbose=False).evaluate()[0].serialize()
  got = evaluation.evaluate_submission(dataset, SPLIT, path)
  assert got['nd_score'] == pytest.approx(wanted['nd_score'], abs=1e-12)
  for name, errors in got['label_tp_errors'].items():
    for error, value in errors.items():
      assert value == pytest.approx(wanted['label_tp_errors'][name][error], abs=1e-9, nan_ok=True)


def test_far_boxes_are_left_out_and_the_best_kept():
  boxes = np.tile([0.0, 0, 0, 1, 1, 1, 0, 0, 0], (700, 1))
  boxes[:100, 0] = 45
  scores, labels = np.linspace(0, 1, 700), np.full(700, 8)  # pedestrians count up to 40 m
  records = submission.sample_results('t', np.eye(4), np.eye(4), boxes, scores, labels)
  assert len(records) == 500 and records[0]['detection_score'] == 1
  assert min(record['detection_score'] for record in records) > 0.25
  assert len(submission.sample_results('t', np.eye(4), np.eye(4), boxes[:100], scores[:100], labels[:100])) == 0
  assert len(submission.sample_results('t', np.eye(4), np.eye(4), boxes[:100], scores[:100], labels[:100] * 0)) == 100


@pytest.mark.parametrize(
  ('name', 'rest', 'motion'),
  [
    ('car', 'vehicle.parked', 'vehicle.moving'),
    ('bus', 'vehicle.stopped', 'vehicle.moving'),
    ('pedestrian', 'pedestrian.standing', 'pedestrian.moving'),
    ('bicycle', 'cycle.without_rider', 'cycle.with_rider'),
    ('barrier', '', ''),
  ],
)
def test_attributes_follow_the_speed(name, rest, motion):
  assert submission.attribute_of(name, 0.2) == rest
  assert submission.attribute_of(name, 0.21) == motion


def broken(edit):
  def apply(results):
    record = results['scene-0103-0'][0]
    edit(record)

  return apply


@pytest.mark.parametrize(
  ('edit', 'message'),
  [
    (lambda r: r.pop('scene-0103-2'), 'lacks 1 samples, such as scene-0103-2'),
    (lambda r: r.update(other=[]), 'holds, beside the split, 1 samples, such as other'),
    (lambda r: r.update({'scene-0103-0': r['scene-0103-0'] * 200}), 'has 800 boxes; at most 500'),
    (lambda r: r.update({'scene-0103-0': None}), 'are no list of boxes'),
    (broken(lambda r: r.pop('size')), "a box of scene-0103-0 has no 'size'"),
    (broken(lambda r: r.update(translation=[1, 2])), r"'translation' of a box of scene-0103-0 is \[1, 2\]"),
    (broken(lambda r: r.update(detection_name='tank')), "the detection_name 'tank'; known: car"),
    (broken(lambda r: r.update(attribute_name='flying')), "the attribute_name 'flying'"),
    (broken(lambda r: r.update(rotation=[0, 0, 0, 0])), 'no quaternion'),
    (broken(lambda r: r.update(size=[1, 1, 0])), 'sizes must be positive'),
  ],
)
def test_bad_submissions_are_named(dataset, tmp_path, edit, message):
  results = perfect(dataset)
  edit(results)
  with pytest.raises(UserError, match=message):
    evaluation.evaluate_submission(dataset, SPLIT, write(tmp_path / 'results.json', results))


def test_bad_detections_are_named():
  box = np.asarray([[0.0, 0, 0, 1, 1, 1, 0, 0, 0]])
  for boxes, labels, message in (
    (box * np.nan, [0], 'Box 0 of the sample t'),
    (box, [10], 'label 10'),
    (box[:, :7], [0], 'are needed'),
  ):
    with pytest.raises(UserError, match=message):
      submission.sample_results('t', np.eye(4), np.eye(4), boxes, [0.5], labels)


def test_command_prints_and_writes_the_numbers(dataset, tmp_path, capsys):
  path = write(tmp_path / 'results.json', perfect(dataset))
  command = [str(path), '--root', str(dataset.root), '--version', nuscenes_set.VERSION, '--split']
  assert evaluation.main([*command, SPLIT]) == 0
  assert 'mAP 0.2000' in capsys.readouterr().out
  assert json.loads((tmp_path / 'results.json.metrics.json').read_text())['mean_ap'] == pytest.approx(0.2)
  assert evaluation.main([*command, 'val']) == 2
  assert 'belongs to v1.0-trainval' in capsys.readouterr().err
  path.write_text('{')
  assert evaluation.main([*command, SPLIT]) == 2
