"""Few-shot AP against stored results of pycocotools, and by hand."""

import json

import numpy as np
import pytest

from jaxpapers.ops import coco_ap
from jaxpapers.reft import evaluation
from tests import golden

FOLDER = golden.default_folder('reft')


@pytest.mark.skipif(not (FOLDER / 'coco_gt.json').is_file(), reason=f'{FOLDER} is absent')
def test_groups_equal_evaluations_of_their_classes_alone():
  stored = json.loads((FOLDER / 'coco_results.json').read_text())
  truth = json.loads((FOLDER / 'coco_gt.json').read_text())
  found = json.loads((FOLDER / 'coco_detections.json').read_text())
  got = evaluation.few_shot_precision(truth, found, stored['base_ids'], stored['novel_ids'])
  for kind in ('segm', 'bbox'):
    for prefix, group in (('', 'all'), ('n', 'novel'), ('b', 'base')):
      for name in ('AP', 'AP50', 'AP75'):
        want = stored['results'][f'{kind}/{group}'][name]
        assert got.metrics[f'{kind}/{prefix}{name}'] == pytest.approx(want, abs=1e-9)
    want = stored['results'][f'{kind}/all']['per_class_AP']
    known = {int(c): ap for c, ap in want.items() if ap is not None and ap >= 0}
    assert got.per_class[kind] == pytest.approx(known, abs=1e-9) and len(known) < len(want)
    novel, base = got.metrics[f'{kind}/nAP'], got.metrics[f'{kind}/bAP']
    assert got.metrics[f'{kind}/hAP'] == pytest.approx(2 / (1 / novel + 1 / base))


def squares():
  """Three images of 20x20; classes 0 (base), 1 (novel), 2 (novel, no object)."""
  masks = np.zeros((3, 2, 20, 20), bool)
  masks[:, 0, 2:12, 2:12] = True
  masks[:, 1, 13:19, 5:18] = True
  classes = np.array([[0, 1], [0, -1], [1, 0]])
  masks[1, 1] = False
  return masks, classes, evaluation.ground_truth(masks, classes, ('a', 'b', 'c'))


def test_found_all_but_one_class():
  masks, classes, truth = squares()
  found = evaluation.result_list(np.ones((3, 2)), np.where(classes == 0, 0, -1), masks)
  assert len(found) == 3
  got = evaluation.few_shot_precision(truth, found, [0], [1, 2])
  assert got.metrics['segm/bAP'] == pytest.approx(1) and got.metrics['segm/nAP'] == 0 == got.metrics['segm/hAP']
  assert got.metrics['segm/AP'] == pytest.approx(0.5) and got.metrics['bbox/AP'] == pytest.approx(0.5)
  assert set(got.per_class['segm']) == {0, 1}  # the class without an object counts nowhere


def test_predictions_of_other_classes_do_not_matter():
  masks, classes, truth = squares()
  scores = np.random.default_rng(0).random((3, 2))
  found = evaluation.result_list(scores, classes, masks)
  wrong = evaluation.result_list(1 + scores, np.zeros_like(classes), masks)
  alone, disturbed = (evaluation.few_shot_precision(truth, x, [0], [1]).metrics for x in (found, found + wrong))
  assert alone['segm/nAP'] == disturbed['segm/nAP'] == pytest.approx(1)
  assert disturbed['segm/bAP'] < alone['segm/bAP']


def test_nothing_found_is_zero_with_a_warning():
  _, _, truth = squares()
  with pytest.warns(UserWarning, match='no prediction at all'):
    got = evaluation.few_shot_precision(truth, [], [0], [1, 2])
  assert got.metrics['segm/AP'] == got.metrics['bbox/nAP'] == got.metrics['segm/hAP'] == 0


def test_groups_without_ground_truth_are_left_out():
  masks, classes, truth = squares()
  found = evaluation.result_list(np.ones((3, 2)), classes, masks)
  got = evaluation.few_shot_precision(truth, found, [0, 1], [2], kinds=('segm',))
  assert got.metrics['segm/AP'] == got.metrics['segm/bAP'] == pytest.approx(1)
  assert 'segm/nAP' not in got.metrics and 'segm/hAP' not in got.metrics and 'bbox/AP' not in got.metrics


def test_overlapping_groups():
  with pytest.raises(ValueError, match='Category 1 is both base and novel'):
    evaluation.few_shot_precision(squares()[2], [], [0, 1], [1])


def test_result_list_equals_one_by_one():
  rng = np.random.default_rng(1)
  masks, scores = rng.random((2, 3, 7, 5)) < 0.4, rng.random((2, 3))
  classes = rng.integers(0, 3, (2, 3))
  got = evaluation.result_list(scores, classes, masks, image_ids=[5, 9], category_ids=[10, 20, 30])
  per_image = [{'scores': s, 'labels': c, 'masks': m} for s, c, m in zip(scores, classes, masks, strict=True)]
  assert got == coco_ap.detections(per_image, [5, 9], [10, 20, 30])


def test_intervals():
  got = evaluation.interval([0.1, 0.2, 0.4])
  assert got.mean == pytest.approx(0.7 / 3) and got.count == 3
  assert got.half_width == pytest.approx(1.96 * np.std([0.1, 0.2, 0.4], ddof=1) / np.sqrt(3))
  assert np.isnan(evaluation.interval([0.3]).half_width)
  with pytest.raises(ValueError, match='at least one number'):
    evaluation.interval([])
  seeds = evaluation.over_seeds([{'a': 1.0, 'b': 2.0}, {'a': 3.0}])
  assert list(seeds) == ['a'] and seeds['a'].mean == 2


@pytest.mark.parametrize('a, b, want', [(0.2, 0.2, 0.2), (0.0, 0.5, 0.0), (0.0, 0.0, 0.0), (0.3, 0.6, 0.4)])
def test_harmonic_mean(a, b, want):
  assert evaluation.harmonic_mean(a, b) == pytest.approx(want)
