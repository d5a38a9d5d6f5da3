import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jaxpapers.ops import coco_ap
from tests.ops.test_boxes import random_boxes

SIZE = (100, 100)


def scene(rng, images=6, classes=3):
  """Ground truth, and detections that are noisy copies of it with false alarms."""
  truth, found = [], []
  for _ in range(images):
    n = rng.integers(0, 5)
    boxes, labels = random_boxes(rng, n, smallest=4), rng.integers(0, classes, n)
    crowd = rng.random(n) < 0.2
    truth.append({'size': SIZE, 'boxes': boxes, 'labels': labels, 'crowd': crowd})
    noisy = boxes + rng.normal(0, 2, boxes.shape).astype(np.float32)
    noisy = np.concatenate([noisy, random_boxes(rng, 3)])
    labels = np.concatenate([labels, rng.integers(0, classes, 3)])
    found.append({'boxes': noisy, 'labels': labels, 'scores': rng.random(len(noisy)).astype(np.float32)})
  return truth, found


def direct(truth, results, kind, tmp_path):
  """pycocotools on files, as its authors use it."""
  for name, content in (('truth', truth), ('results', results)):
    (tmp_path / f'{name}.json').write_text(json.dumps(content))
  reference = COCO(str(tmp_path / 'truth.json'))
  evaluator = COCOeval(reference, reference.loadRes(str(tmp_path / 'results.json')), kind)
  evaluator.evaluate()
  evaluator.accumulate()
  evaluator.summarize()
  return evaluator.stats


def test_equals_pycocotools_and_is_silent(tmp_path, capsys):
  truth, found = scene(np.random.default_rng(0))
  truth, found = coco_ap.truth(truth, 3), coco_ap.detections(found)
  before = json.dumps([truth, found])
  result = coco_ap.evaluate(truth, found)
  assert capsys.readouterr().out == ''
  assert json.dumps([truth, found]) == before
  stats = direct(truth, found, 'bbox', tmp_path)
  names = ['AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'AR1', 'AR10', 'AR100', 'ARs', 'ARm', 'ARl']
  for name, want in zip(names, stats, strict=True):
    if want < 0:
      assert np.isnan(result.metrics[name])
    else:
      assert result.metrics[name] == want
  assert 0.02 < result.metrics['AP'] < 0.9
  assert np.nanmean(result.per_class) == pytest.approx(result.metrics['AP'])
  assert np.nanmean(result.per_class_50) == pytest.approx(result.metrics['AP50'])
  assert result.precision.shape == (10, 101, 3)
  by_file = coco_ap.evaluate(str(tmp_path / 'truth.json'), str(tmp_path / 'results.json'))
  assert by_file.metrics == pytest.approx(result.metrics, nan_ok=True)


def test_masks(tmp_path):
  rng = np.random.default_rng(1)
  truth, found = [], []
  for _ in range(3):
    masks = np.zeros((2, 40, 50), bool)
    masks[0, 5:20, 5:20] = masks[1, 22:38, 20:45] = True
    truth.append({'size': (40, 50), 'masks': masks, 'labels': [0, 1]})
    found.append({'masks': np.roll(masks, rng.integers(-3, 4), axis=2), 'labels': [0, 1], 'scores': rng.random(2)})
  truth, found = coco_ap.truth(truth, ['a', 'b']), coco_ap.detections(found)
  result = coco_ap.evaluate(truth, found, kind='segm')
  for entry in (*truth['annotations'], *found):
    entry['segmentation'] = {**entry['segmentation'], 'counts': entry['segmentation']['counts'].decode()}
  assert result.metrics['AP'] == direct(truth, found, 'segm', tmp_path)[0]
  assert truth['annotations'][0]['area'] == 225


def test_perfect_and_empty():
  truth, _ = scene(np.random.default_rng(2))
  for image in truth:
    image['crowd'][:] = False
  perfect = [{**image, 'scores': np.ones(len(image['labels']))} for image in truth]
  reference = coco_ap.truth(truth, 4)  # class 3 has no ground truth
  result = coco_ap.evaluate(reference, coco_ap.detections(perfect))
  assert result.metrics['AP'] == pytest.approx(1)
  assert np.isnan(result.per_class[3])
  assert coco_ap.evaluate(reference, []).metrics['AP'] == 0


def test_padding_and_ids():
  found = coco_ap.detections(
    [{'boxes': np.ones((2, 4)), 'labels': [1, 0], 'scores': [0.5, 0.4], 'valid': [True, False]}], [42], [7, 9]
  )
  assert found == [{'image_id': 42, 'category_id': 9, 'score': 0.5, 'bbox': [1, 1, 0, 0]}]


@pytest.mark.parametrize(
  'change, words',
  [
    ({'image_id': 99}, 'image 99'),
    ({'category_id': 99}, 'category 99'),
  ],
)
def test_results_that_do_not_fit(change, words):
  truth, found = scene(np.random.default_rng(3))
  results = coco_ap.detections(found)
  results[2].update(change)
  with pytest.raises(ValueError, match=words):
    coco_ap.evaluate(coco_ap.truth(truth, 3), results)
  del results[2]['score']
  with pytest.raises(ValueError, match="Result 2 has no 'score'"):
    coco_ap.evaluate(coco_ap.truth(truth, 3), results)


def test_labels_outside_the_classes():
  with pytest.raises(ValueError, match='Image 0, object 1: class 5'):
    coco_ap.truth([{'size': SIZE, 'boxes': np.ones((2, 4)), 'labels': [0, 5]}], 3)
  with pytest.raises(ValueError, match="'bbox' or 'segm'"):
    coco_ap.evaluate(coco_ap.truth([], 1), [], kind='keypoints')
