import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_ops

from jaxpapers.data.coco import CocoInstances
from jaxpapers.engine.errors import UserError


def content():
  """Two images of 40x30 and one without objects; categories with gaps."""
  mask = np.zeros((30, 40), np.uint8)
  mask[10:20, 5:25] = 1
  run_lengths = mask_ops.encode(np.asfortranarray(mask))
  return {
    'images': [{'id': k, 'file_name': f'{k}.png', 'width': 40, 'height': 30} for k in (7, 3, 12)],
    'categories': [{'id': 90, 'name': 'toothbrush'}, {'id': 2, 'name': 'bicycle'}],
    'annotations': [
      {
        'id': 1,
        'image_id': 3,
        'category_id': 90,
        'bbox': [5, 10, 20, 10],
        'area': 200,
        'iscrowd': 0,
        'segmentation': {'size': [30, 40], 'counts': run_lengths['counts'].decode()},
      },
      {
        'id': 2,
        'image_id': 3,
        'category_id': 2,
        'bbox': [0, 0, 4, 6],
        'area': 24,
        'iscrowd': 1,
        'segmentation': [[0, 0, 4, 0, 4, 6, 0, 6]],
      },
      {
        'id': 3,
        'image_id': 12,
        'category_id': 2,
        'bbox': [30, 20, 10.4, 10],
        'area': 104,
        'iscrowd': 0,
        'segmentation': [[30, 20, 40, 20, 40, 30, 30, 30]],
      },
    ],
  }


def write(folder, data):
  for entry in data['images']:
    Image.fromarray(np.full((30, 40, 3), entry['id'], np.uint8)).save(folder / entry['file_name'])
  (folder / 'instances.json').write_text(json.dumps(data))
  return folder, folder / 'instances.json'


def test_reads_boxes_classes_crowds_and_masks(tmp_path):
  source = CocoInstances(*write(tmp_path, content()), masks=True)
  assert len(source) == 3 and source.ids == [3, 7, 12] and source.names == ['bicycle', 'toothbrush']
  example = source[0]
  assert example['image'].shape == (30, 40, 3) and example['image'][0, 0, 0] == 3 and example['id'] == 3
  np.testing.assert_array_equal(example['boxes'], [[5, 10, 25, 20], [0, 0, 4, 6]])
  np.testing.assert_array_equal(example['labels'], [1, 0])
  np.testing.assert_array_equal(example['crowd'], [False, True])
  assert example['masks'].sum() == 200 + 24 and example['masks'][0, 10:20, 5:25].all()
  assert source[1]['boxes'].shape == (0, 4) and source[1]['masks'].shape == (0, 30, 40)
  np.testing.assert_array_equal(source[2]['boxes'], [[30, 20, 40, 30]])  # 0.4 beyond the border is clipped


def test_images_without_objects_can_be_left_out(tmp_path):
  data = content()
  data['annotations'][2]['iscrowd'] = 1
  assert CocoInstances(*write(tmp_path, data), keep_empty=False).ids == [3]


def broken(change):
  data = content()
  change(data)
  return data


@pytest.mark.parametrize(
  'change, words',
  [
    (lambda d: d['annotations'][0].update(bbox=[5, 10, 36.5, 10]), 'annotation 1 lies outside its image.*image 3'),
    (lambda d: d['annotations'][1].update(bbox=[-2, 0, 4, 6]), 'annotation 2 lies outside'),
    (lambda d: d['annotations'][2].update(bbox=[5, 10, 0, 10]), 'annotation 3 has zero area.*12.png'),
    (lambda d: d['annotations'][0].update(category_id=5), 'annotation 1 is of class 5'),
    (lambda d: d['annotations'][0].update(image_id=8), 'annotation 1 names image 8'),
    (lambda d: d['annotations'][0]['segmentation'].update(size=[40, 30]), 'annotation 1 has a run-length mask'),
    (lambda d: d['annotations'][2].update(segmentation=[]), 'annotation 3 .* has no segmentation'),
  ],
)
def test_bad_annotations_name_file_and_id(tmp_path, change, words):
  with pytest.raises(UserError, match=f'instances.json: {words}'):
    CocoInstances(*write(tmp_path, broken(change)), masks=True)


def test_boxes_can_be_skipped_and_are_counted(tmp_path):
  def change(data):
    data['annotations'][0]['bbox'] = [5, 10, 0, 10]
    data['annotations'][2]['bbox'] = [30, 20, 20, 10]

  source = CocoInstances(*write(tmp_path, broken(change)), bad='skip')
  assert source.skipped == {'has zero area': 1, 'lies outside its image': 1}
  assert len(source[0]['boxes']) == 1 and len(source[2]['boxes']) == 0


def test_missing_truncated_and_misshapen_images(tmp_path):
  paths = write(tmp_path, content())
  full = (tmp_path / '7.png').read_bytes()
  (tmp_path / '7.png').write_bytes(full[: len(full) // 2])
  source = CocoInstances(*paths)
  with pytest.raises(UserError, match='7.png is no complete image'):
    source[1]
  Image.fromarray(np.zeros((10, 40, 3), np.uint8)).save(tmp_path / '3.png')
  with pytest.raises(UserError, match=r'3.png \(image 3\) is 40x10, not 40x30'):
    source[0]
  (tmp_path / '12.png').unlink()
  with pytest.raises(UserError, match=r'12.png \(image 12 of .*instances.json\) is missing'):
    CocoInstances(*paths)


def test_bad_files(tmp_path):
  folder, path = write(tmp_path, content())
  with pytest.raises(UserError, match='No file .*absent.json'):
    CocoInstances(folder, tmp_path / 'absent.json')
  with pytest.raises(UserError, match='No folder .*absent'):
    CocoInstances(tmp_path / 'absent', path)
  text = path.read_text()
  path.write_text(text[: len(text) // 2])
  with pytest.raises(UserError, match='instances.json is no complete JSON'):
    CocoInstances(folder, path)
  path.write_text('{"images": []}')
  with pytest.raises(UserError, match="no list 'annotations'"):
    CocoInstances(folder, path)
  with pytest.raises(UserError, match="'error' or 'skip'"):
    CocoInstances(folder, path, bad='ignore')
