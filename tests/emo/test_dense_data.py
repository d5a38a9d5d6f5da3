import json

import numpy as np
import pytest
from PIL import Image

from configs import emo as configs
from jaxpapers.emo import dense_data, dense_datasets, dense_transforms
from jaxpapers.engine.errors import UserError


def write_ade(root, label=None, size=(20, 30)):
  """Two training images; labels 0..150."""
  rng = np.random.default_rng(0)
  for kind in ('images', 'annotations'):
    (root / kind / 'training').mkdir(parents=True)
    (root / kind / 'validation').mkdir(parents=True)
  for stem in ('ADE_train_00000001', 'ADE_train_00000002'):
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(image).save(root / 'images' / 'training' / f'{stem}.jpg')
    made = rng.integers(0, 151, size).astype(np.uint8) if label is None else label
    Image.fromarray(made).save(root / 'annotations' / 'training' / f'{stem}.png')
  return root / 'annotations' / 'training' / 'ADE_train_00000002.png'


def test_ade_labels_are_shifted(tmp_path):
  path = write_ade(tmp_path)
  source = dense_data.AdeFolder(tmp_path, 'training')
  assert len(source) == 2 and len(source.names) == 150
  raw, example = np.asarray(Image.open(path)), source[1]
  assert example['index'] == 1 and example['label'].dtype == np.uint8
  np.testing.assert_array_equal(example['label'], np.where(raw == 0, 255, raw.astype(int) - 1))


def test_bad_ade_files_are_named(tmp_path):
  with pytest.raises(UserError, match='No folder .*images/training.*ADEChallengeData2016'):
    dense_data.AdeFolder(tmp_path, 'training')
  path = write_ade(tmp_path)
  with pytest.raises(UserError, match='validation holds no .jpg'):
    dense_data.AdeFolder(tmp_path, 'validation')
  source = dense_data.AdeFolder(tmp_path, 'training')
  Image.fromarray(np.full((20, 30), 200, np.uint8)).save(path)
  with pytest.raises(UserError, match='ADE_train_00000002.png holds label 200'):
    source[1]
  Image.fromarray(np.ones((20, 31), np.uint8)).save(path)
  with pytest.raises(UserError, match='ADE_train_00000002.png is 31x20, but its image 30x20'):
    source[1]
  Image.fromarray(np.ones((20, 30, 3), np.uint8)).save(path)
  with pytest.raises(UserError, match='ADE_train_00000002.png has 3 channels'):
    source[1]
  path.write_bytes(b'no image')
  with pytest.raises(UserError, match='ADE_train_00000002.png is no complete image'):
    source[1]
  path.unlink()
  with pytest.raises(UserError, match='ADE_train_00000002.png is missing'):
    dense_data.AdeFolder(tmp_path, 'training')


class FakeTfds:
  """What tfds hands out for one example."""

  def __init__(self, example):
    self.example = example

  def __len__(self):
    return 1

  def __getitem__(self, index):
    return self.example


def test_tfds_coco(monkeypatch):
  objects = {  # lists, as tfds decodes a sequence
    'bbox': [np.array([0.1, 0.2, 0.5, 0.6], np.float32), np.array([0, 0, 1, 1], np.float32)],
    'label': [np.int64(3), np.int64(79)],
    'is_crowd': [np.False_, np.True_],
    'area': [np.int64(50), np.int64(900)],
  }
  example = {'image': np.zeros((20, 50, 3), np.uint8), 'image/id': 17, 'objects': objects}
  opened = []
  monkeypatch.setattr(dense_data, 'tfds_source', lambda *args: opened.append(args) or FakeTfds(example))
  source = dense_data.detection_source('coco', 'train', '/data')
  assert opened == [('coco/2017', 'train', '/data')]
  made = source[0]
  np.testing.assert_allclose(made['boxes'], [[10, 2, 30, 10], [0, 0, 50, 20]], atol=1e-4)
  np.testing.assert_array_equal(made['labels'], [3, 79])
  np.testing.assert_array_equal(made['crowd'], [False, True])
  objects['label'][1] = np.int64(80)
  with pytest.raises(UserError, match='image 17.* unknown class 80'):
    source[0]
  example['objects'] = {key: [] for key in objects}
  assert source[0]['boxes'].shape == (0, 4) and source[0]['labels'].shape == (0,)


def test_tfds_scenes_take_the_red_channel(monkeypatch):
  annotation = np.zeros((4, 5, 3), np.uint8)
  annotation[1, 1] = 7, 1, 0
  example = {'image': np.zeros((4, 5, 3), np.uint8), 'annotation': annotation}
  monkeypatch.setattr(dense_data, 'tfds_source', lambda *_: FakeTfds(example))
  label = dense_data.segmentation_source('scene_parse150', 'validation', '')[0]['label']
  assert label[1, 1] == 6 and label[0, 0] == 255


def test_unknown_sets_suggest_the_right_name():
  with pytest.raises(UserError, match="'coco_foldr'.*Did you mean 'coco_folder'"):
    dense_data.detection_source('coco_foldr', 'train', '')
  with pytest.raises(UserError, match="Did you mean 'ade20k_folder'"):
    dense_data.segmentation_source('ade20k', 'train', '')
  for read, name in ((dense_data.detection_source, 'coco_folder'), (dense_data.segmentation_source, 'ade20k_folder')):
    with pytest.raises(UserError, match='Set --config.data.dir=FOLDER'):
      read(name, 'train', '')


def write_coco(root):
  for folder, count in (('train2017', 3), ('val2017', 2)):
    (root / folder).mkdir()
    images, annotations = [], []
    for k in range(count):
      Image.fromarray(np.full((40, 50, 3), 60, np.uint8)).save(root / folder / f'{k}.jpg')
      images.append({'id': k, 'file_name': f'{k}.jpg', 'width': 50, 'height': 40})
      for n, crowd in enumerate((0, 1)):
        box = [5 + k, 6, 20, 12 + n]
        entry = {'id': 2 * k + n, 'image_id': k, 'category_id': 2, 'bbox': box, 'area': 240, 'iscrowd': crowd}
        annotations.append(entry)
    (root / 'annotations').mkdir(exist_ok=True)
    content = {'images': images, 'annotations': annotations, 'categories': [{'id': 2, 'name': 'bicycle'}]}
    (root / 'annotations' / f'instances_{folder}.json').write_text(json.dumps(content))


@pytest.mark.parametrize('variant', ['coco_ssdlite', 'coco_retinanet'])
def test_coco_batches_are_static(tmp_path, variant):
  write_coco(tmp_path)
  config = configs.get_config(variant)
  config.data.update(dict(dir=str(tmp_path), max_objects=4, workers=0))
  if variant == 'coco_ssdlite':
    config.data.size = (64, 64)
  else:
    config.data.update(dict(size=(96, 96), long_side=90, short_side=60))
  config.train.update(dict(batch_size=2, test_batch_size=4))
  sets = dense_datasets.datasets(config)
  size = tuple(config.data.size)
  batch = sets.train(3)
  assert {key: (value.shape, value.dtype.kind) for key, value in batch.items()} == {
    'image': ((2, *size, 3), 'u'),
    'boxes': ((2, 4, 4), 'f'),
    'labels': ((2, 4), 'i'),
    'truth_valid': ((2, 4), 'b'),
    'image_size': ((2, 2), 'i'),
  }
  np.testing.assert_array_equal(batch['truth_valid'].sum(axis=1), 1)  # the crowd region is left out
  again = dense_datasets.datasets(config).train(3)
  assert all(np.array_equal(batch[key], again[key]) for key in batch)
  (test,) = sets.test()
  np.testing.assert_array_equal(test['valid'], [True, True, False, False])
  np.testing.assert_array_equal(test['crowd'][0], [False, True, False, False])
  np.testing.assert_allclose(test['boxes'][1, 0], [6, 6, 26, 18])
  np.testing.assert_array_equal(test['size'][0], [40, 50])
  covered = test['size'] * test['scale']
  np.testing.assert_allclose(covered, test['image_size'], atol=0.6)
  assert sets.names == ['bicycle']


def test_segmentation_training_and_test_transforms():
  rng = np.random.default_rng(0)
  example = {'image': rng.integers(0, 256, (30, 40, 3), np.uint8), 'index': 5}
  example['label'] = rng.integers(0, 3, (30, 40)).astype(np.uint8)
  made = dense_transforms.segmentation_training((64, 64))(example, rng)
  assert made['image'].shape == (64, 64, 3) and made['label'].shape == (64, 64)
  made = dense_transforms.segmentation_test((64, 96))(example)
  assert made['image'].shape == (64, 96, 3) and made['index'] == 5
  np.testing.assert_array_equal(made['image_size'], [64, 85])


def test_flips_of_shapes_move_boxes_and_labels_with_the_pixels():
  made = dense_datasets.shapes('train', 40, 64, 3)
  objects = dense_datasets._objects(made)
  flipped = dense_datasets._flip_boxes(objects, np.random.default_rng(0))
  labels = dense_datasets._flip_labels(
    {'image': made['image'], 'label': made['mask'].astype(np.uint8)}, np.random.default_rng(0)
  )
  np.testing.assert_array_equal(flipped['image'], labels['image'])
  assert not np.array_equal(flipped['image'], made['image'])
  for i in range(40):
    assert not flipped['boxes'][i][~flipped['truth_valid'][i]].any()
    for box, label in zip(flipped['boxes'][i], flipped['labels'][i], strict=True):
      x1, y1, x2, y2 = box.astype(int)
      if x2 > x1:
        assert (labels['label'][i, y1:y2, x1:x2] == label + 1).any(axis=0).all()
  config = configs.get_config('shapes_detection')
  config.data.size = (64, 32)
  with pytest.raises(UserError, match='square'):
    dense_datasets.datasets(config)
