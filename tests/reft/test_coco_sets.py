"""A small benchmark folder through readers, a test pass and the evaluation."""

import json

import jax
import numpy as np
import pytest

from jaxpapers.data import evaluation_batches
from jaxpapers.engine.errors import UserError
from jaxpapers.reft import coco_data, coco_results, coco_sets, inference, kshot_files, segmentations, splits
from tests.reft import toy_coco

PER_IMAGE = ((3, 5), (3,), (5, 9), (9, 3), (5, 5), (9,), (3, 3), ())


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """COCO 2014 as TFA lays it out."""
  root = tmp_path_factory.mktemp('coco')
  (root / 'trainval2014').mkdir()
  (root / 'datasplit').mkdir()
  for name in ('trainvalno5k', '5k'):
    toy_coco.write(root / 'trainval2014', toy_coco.content(PER_IMAGE)).rename(root / 'datasplit' / f'{name}.json')
  return root


@pytest.fixture(autouse=True)
def dogs_are_novel(monkeypatch):
  layout = coco_sets.LAYOUTS['coco2014']._replace(split=lambda a: splits.make_split(a, ['cat', 'owl'], ['dog']))
  monkeypatch.setattr(coco_sets, 'LAYOUTS', {**coco_sets.LAYOUTS, 'coco2014': layout})


def sets(folder, **options):
  options = {'layout': 'coco2014', 'k': 1, 'sampled': (1, 2), **options}
  return coco_sets.few_shot_sets(str(folder), **options)


def test_settings_choose_classes(folder):
  found = sets(folder, setting='gfsis', k=2)
  assert set(found.shots.objects.label) == {0, 1, 2} and len(found.shots.objects.label) == 6
  assert set(found.base.objects.label) == {0, 2}
  assert len(found.test) == 8 and len(found.truth['annotations']) == 12
  assert found.counts.endswith('3 classes, 6 objects')
  novel = sets(folder, setting='fsis', with_base=False)
  assert novel.base is None and novel.shots.objects.label.tolist() == [1]
  assert 'dog' in novel.counts and 'cat' not in novel.counts


def test_shots_from_files_are_those_drawn(folder, tmp_path):
  drawn = sets(folder, k=2, seed=3)
  annotations = kshot_files.read_annotations(folder / 'datasplit' / 'trainvalno5k.json')
  kshot_files.write_shots(annotations, tmp_path, (3,), (1, 2))
  read = sets(folder, k=2, seed=3, shots_folder=str(tmp_path), with_base=False)
  assert read.shots.ids == drawn.shots.ids
  for a, b in zip(read.shots.objects, drawn.shots.objects, strict=True):
    np.testing.assert_array_equal(a, b)


def test_what_is_left_out_is_told(tmp_path):
  (tmp_path / 'datasplit').mkdir()
  (tmp_path / 'trainval2014').mkdir()
  path = toy_coco.write(tmp_path / 'trainval2014', toy_coco.content(PER_IMAGE))
  data = json.loads(path.read_text())
  path.rename(tmp_path / 'datasplit' / '5k.json')
  data['annotations'].append({**data['annotations'][0], 'id': 99, 'segmentation': [[1, 2, 3, 4]]})
  (tmp_path / 'datasplit' / 'trainvalno5k.json').write_text(json.dumps(data))
  assert '1 annotations of' in (counts := sets(tmp_path).counts) and 'left out: has a polygon of 4 numbers' in counts
  with pytest.raises(UserError, match=r'trainvalno5k\.json: annotation 99 of image 10 \(0\.png\) has a polygon of 4'):
    sets(tmp_path, bad='error')


@pytest.mark.parametrize(
  'options, words',
  [
    ({'layout': 'coco2013'}, "Unknown config.data.layout='coco2013'. Did you mean 'coco201"),
    ({'layout': 'tfds'}, "TFDS's coco has no masks and its lvis no class frequencies"),
    ({'setting': 'few'}, "Unknown setting 'few'"),
    ({'k': 3}, 'The sampler draws 1, 2 shots, not 3'),
    ({'sampled': (1, 5)}, r'trainvalno5k\.json, seed 1: Category 3 \(cat\): 5 shots .*; found 5 objects in 4\.'),
    ({'layout': 'lvis'}, r'No file .*annotations/lvis_v1_val\.json'),
    ({'max_objects': 1}, r'image 40 .* has 2 objects: set config\.data\.max_objects'),
  ],
)
def test_wrong_settings(folder, options, words):
  with pytest.raises(UserError, match=words):
    sets(folder, **options)


def test_no_folder():
  with pytest.raises(UserError, match=r'--config\.data\.dir=FOLDER.*instances_val2017\.json'):
    coco_sets.few_shot_sets('')


def test_train_and_test_name_the_same_classes(folder, tmp_path):
  (tmp_path / 'datasplit').mkdir()
  for name in ('trainvalno5k', '5k'):
    data = toy_coco.content(PER_IMAGE)
    if name == 'trainvalno5k':
      data['categories'][0]['name'] = 'eagle'
    (tmp_path / 'datasplit' / f'{name}.json').write_text(json.dumps(data))
  with pytest.raises(UserError, match=r"Category 9 differs: .*trainvalno5k\.json calls it 'eagle', .*5k\.json calls"):
    sets(tmp_path)


def test_host_inference_equals_the_compiled_one():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(6, 4)).astype(np.float32)
  masks = rng.normal(size=(6, 8, 12)).astype(np.float32)
  padded, covered, size = (32, 48), (27, 48), (41, 73)
  compiled = jax.jit(inference.instances, static_argnums=(2, 3, 4, 5))
  want = compiled(logits, masks, padded, covered, size, 10)
  pairs = jax.tree.map(lambda x: np.asarray(x)[0], coco_results.best_pairs(logits[None], 10))
  got = coco_results.image_results(
    pairs, masks, canvas=padded, covered=covered, size=size, image_id=7, category_ids=[2, 4, 9]
  )
  assert [r['category_id'] for r in got] == [[2, 4, 9][c] for c in np.asarray(want.classes)]
  np.testing.assert_allclose([r['score'] for r in got], want.scores, atol=1e-5)
  decoded = np.stack([coco_results.coco_ap.mask_ops.decode(r['segmentation']) for r in got])
  assert np.mean(decoded != np.asarray(want.masks)) < 1e-4 and 0.2 < decoded.mean() < 0.8
  assert {r['image_id'] for r in got} == {7}


def outputs(found, confuse):
  """What a perfect network would give, one query an object; with `confuse` every dog is taken for a cat."""
  canvas = 2 * toy_coco.SIZE[0], 2 * toy_coco.SIZE[1]
  transform = coco_data.evaluation_transform(2 * toy_coco.SIZE[1], 2 * toy_coco.SIZE[0], canvas)
  for batch in evaluation_batches(found.test, 3, transform)():
    logits, masks = np.full((3, 2, 4), -9.0), np.full((3, 2, *toy_coco.SIZE), -9.0)
    logits[..., 3] = 0
    for i in range(3):
      example = found.test[found.test.ids.index(int(batch['id'][i]))]
      for j, (label, outline) in enumerate(zip(example['labels'], example['segmentations'], strict=True)):
        logits[i, j, 0 if confuse and label == 1 else label] = 9
        masks[i, j] = np.where(coco_results.coco_ap.mask_ops.decode(_encoded(outline)), 9, -9)
    yield {**batch, **coco_results.best_pairs(logits, 2)._asdict(), 'masks': masks, 'canvas': canvas}


def _encoded(outline):
  return segmentations.encode(outline, *toy_coco.SIZE)


def test_a_perfect_network_reaches_one(folder):
  found = sets(folder)
  got = coco_results.evaluate_outputs(outputs(found, False), found.truth, found.split)
  for name in ('segm/AP', 'segm/nAP', 'segm/bAP', 'bbox/AP'):
    assert got.metrics[name] == pytest.approx(1)
  got = coco_results.evaluate_outputs(outputs(found, True), found.truth, found.split)
  assert got.metrics['segm/nAP'] == 0 and 0.3 < got.metrics['segm/bAP'] < 1
  alone = coco_results.evaluate_outputs(outputs(found, False), found.truth, found.split, 'fsis')
  assert alone.metrics['segm/AP'] == alone.metrics['segm/nAP'] == pytest.approx(1)
  assert 'segm/bAP' not in alone.metrics
