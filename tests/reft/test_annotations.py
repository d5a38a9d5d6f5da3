"""Reading instances JSON: the real files, segmentations by pycocotools, every bad entry."""

import collections
import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_ops

from jaxpapers.data.coco import decode_mask
from jaxpapers.engine.errors import UserError
from jaxpapers.reft import annotations, segmentations, splits
from tests import golden
from tests.reft import toy_coco

GOLDEN = golden.default_folder('reft')
REAL = GOLDEN.parents[1] / 'data' / 'reft'


@pytest.mark.skipif(not REAL.is_dir(), reason=f'{REAL} is absent')
@pytest.mark.parametrize('k, images, objects, polygons, largest', [(1, 80, 245, 262, 10), (5, 308, 1003, 1105, 41)])
def test_real_files(k, images, objects, polygons, largest):
  found = annotations.read_annotations(REAL / f'coco_fewshot_seed1_{k}shot.json.gz')
  assert (len(found.images), len(found.entries), found.skipped) == (images, objects, {})
  assert sum(len(entry['segmentation']) for entry in found.entries) == polygons
  split = splits.coco_split(found)
  assert len(split.base) == 60 and len(split.novel) == 20 and list(split.names) == sorted(split.names)
  assert split.index[1] == 0 and split.index[90] == 79
  counts = splits.class_counts(found, split)
  each = [count.objects for count in counts]
  assert min(each) == k and max(each) == largest and sum(each) == objects
  if k == 1:
    assert each.count(1) == 20
  assert splits.count_table(counts).endswith(f'80 classes, {objects} objects')
  # COCO's areas are those of the polygons: rasterising gives the same up to the border.
  stored, drawn = [], []
  for entry in found.entries:
    image = found.images[entry['image_id']]
    drawn.append(decode_mask(entry['segmentation'], image['height'], image['width']).sum())
    stored.append(entry['area'])
  stored, drawn = np.asarray(stored), np.asarray(drawn)
  large = stored > 1000
  assert np.abs(drawn / stored - 1)[large].max() < 0.1 and np.abs(drawn.sum() / stored.sum() - 1) < 0.01


@pytest.mark.skipif(not (GOLDEN / 'coco_gt.json').is_file(), reason=f'{GOLDEN} is absent')
def test_reference_file_with_all_kinds_of_masks():
  found = annotations.read_annotations(GOLDEN / 'coco_gt.json')
  with np.load(GOLDEN / 'coco_arrays.npz') as stored:
    for entry in found.entries:
      image = found.images[entry['image_id']]
      size = image['height'], image['width']
      mask = segmentations.place_mask(entry['segmentation'], segmentations.Placement(size, False, size, (0, 0), size))
      if f'mask/{entry["id"]}' in stored:
        np.testing.assert_array_equal(np.packbits(mask), stored[f'mask/{entry["id"]}'])
  kinds = collections.Counter(type(entry['segmentation']).__name__ for entry in found.entries)
  assert kinds['list'] and kinds['dict']


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(1, 70), st.floats(0, 1), st.integers(0, 2**31))
def test_run_lengths_of_compressed_masks(height, width, share, seed):
  mask = np.random.default_rng(seed).random((height, width)) < share
  encoded = mask_ops.encode(np.asfortranarray(mask, np.uint8))
  runs = segmentations.run_lengths(encoded['counts'])
  column = np.repeat(np.arange(len(runs)) % 2, runs)
  np.testing.assert_array_equal(column.reshape(width, height).T, mask)
  assert segmentations.problem(encoded, height, width) is None


def test_reads_what_is_missing_from_the_mask(tmp_path):
  data = toy_coco.content()
  for entry in data['annotations']:
    for name in ('area', 'bbox', 'iscrowd'):
      del entry[name]
  found = toy_coco.read(tmp_path, data)
  assert [entry['area'] for entry in found.entries] == [400] * 9
  assert found.entries[0]['bbox'] == [5, 6, 20, 20] and found.entries[0]['iscrowd'] == 0
  assert list(found.names.items()) == [(3, 'cat'), (5, 'dog'), (9, 'owl')]
  assert found.by_image[50] == found.entries[-2:] and found.by_image[60] == []
  with gzip.open(tmp_path / 'again.json.gz', 'wt') as file:
    json.dump(found.as_json(), file)
  assert annotations.read_annotations(tmp_path / 'again.json.gz').entries == found.entries


def test_lvis_names_its_images_by_address(tmp_path):
  data = toy_coco.content()
  data['images'][0]['coco_url'] = 'http://images.cocodataset.org/train2017/000000000009.jpg'
  path = toy_coco.write(tmp_path, data)
  del data['images'][0]['file_name']
  path.write_text(json.dumps(data))
  assert annotations.read_annotations(path).images[10]['file_name'] == 'train2017/000000000009.jpg'


def entry(key, value, number=0):
  """A change of one annotation."""
  return lambda data: data['annotations'][number].update({key: value})


SQUARE = toy_coco.run_lengths(5, 6, 25, 26, compressed=False)
PACKED = toy_coco.run_lengths(5, 6, 25, 26)
BAD_MASKS = [
  ([[1, 2, 3, 4]], 'polygon of 4 numbers'),
  ([[1, 2, 3, 4, 5, 6, 7]], 'polygon of 7 numbers'),
  ([[1, 2, 3, 4, 5, None]], 'no finite number'),
  ([7], 'polygon that is no list'),
  ([], 'has no segmentation'),
  (None, 'has no segmentation'),
  ({'size': list(toy_coco.SIZE)}, "without 'size'"),
  ({**SQUARE, 'size': [60, 40]}, 'run-length mask of 40x60 on an image of 60x40'),
  ({**SQUARE, 'counts': SQUARE['counts'][:-1]}, r'add up to \d+, not to 2400 = 40 x 60'),
  ({**SQUARE, 'counts': [2500, -100]}, 'negative run length'),
  ({**PACKED, 'counts': PACKED['counts'] + 'o'}, 'end in the middle of a number'),
  ({**PACKED, 'counts': PACKED['counts'][:-3]}, 'add up to'),
  (toy_coco.rectangle(5, 5, 5, 5), 'empty mask'),
  (toy_coco.rectangle(100, 5, 120, 15), 'empty mask'),
  ({**SQUARE, 'counts': [2400]}, 'empty mask'),
]


@pytest.mark.parametrize('segmentation, words', BAD_MASKS)
def test_malformed_masks(tmp_path, segmentation, words):
  data = toy_coco.content()
  entry('segmentation', segmentation, 2)(data)
  path = toy_coco.write(tmp_path, data)
  with pytest.raises(UserError, match=rf'instances\.json: annotation 3 of image 20 \(1\.png\) .*{words}'):
    annotations.read_annotations(path)
  found = annotations.read_annotations(path, bad='skip')
  assert [e['id'] for e in found.entries] == [1, 2, 4, 5, 6, 7, 8, 9] and sum(found.skipped.values()) == 1


@pytest.mark.parametrize(
  'change, words',
  [
    (entry('category_id', 4), 'annotation 1 is of category 4, which the file does not list'),
    (entry('image_id', 11), 'annotation 1 names image 11, which the file does not list'),
    (entry('id', 2), 'annotation id 2 appears twice'),
    (lambda data: data['annotations'][3].pop('image_id'), "annotation 4 has no 'image_id'"),
    (lambda data: data['annotations'][3].pop('id'), "annotation number 3 of the list has no 'id'"),
    (lambda data: data['images'][1].update(id=10), 'image id 10 appears twice'),
    (lambda data: data['images'][1].update(height=0), 'image 20 has size 60x0'),
    (lambda data: data['images'][1].pop('width'), "image 20 has no 'width'"),
    (lambda data: data['categories'].append({'id': 3}), 'category id 3 appears twice'),
    (lambda data: data.pop('categories'), "no list 'categories'"),
  ],
)
@pytest.mark.parametrize('bad', ['error', 'skip'])
def test_files_that_contradict_themselves(tmp_path, change, words, bad):
  data = toy_coco.content()
  path = toy_coco.write(tmp_path, data)
  change(data)
  path.write_text(json.dumps(data))
  with pytest.raises(UserError, match=rf'instances\.json.*{words}'):
    annotations.read_annotations(path, bad=bad)


def test_files_that_are_none(tmp_path):
  path = toy_coco.write(tmp_path)
  with pytest.raises(UserError, match=r'No file .*absent\.json'):
    annotations.read_annotations(tmp_path / 'absent.json')
  whole = path.read_text()
  path.write_text(whole[:500])
  with pytest.raises(UserError, match=r'instances\.json is no complete JSON file'):
    annotations.read_annotations(path)
  packed = gzip.compress(whole.encode())
  for name, cut in (('cut.json.gz', packed[: len(packed) // 2]), ('plain.json.gz', whole.encode())):
    (tmp_path / name).write_bytes(cut)
    with pytest.raises(UserError, match=rf'{name} is no complete JSON file'):
      annotations.read_annotations(tmp_path / name)
  with pytest.raises(UserError, match="'error' or 'skip', not 'ignore'"):
    annotations.read_annotations(path, bad='ignore')


def test_splits(tmp_path):
  found = toy_coco.read(tmp_path)
  split = splits.make_split(found, ['cat', 9], [5])
  assert split.base == (3, 9) and split.novel == (5,)
  assert split.base_classes == (0, 2) and split.novel_classes == (1,)
  for base, novel, words in (
    ([3, 9], [5, 3], r'Category 3 \(cat\) of .*instances\.json is both base and novel'),
    ([3], [5], r'Category 9 \(owl\) of .*instances\.json is neither base nor novel'),
    ([3, 9, 'rat'], [5], r'instances\.json has no category rat'),
  ):
    with pytest.raises(UserError, match=words):
      splits.make_split(found, base, novel)
  with pytest.raises(UserError, match=r'instances\.json has no category 1'):
    splits.coco_split(found)


def test_lvis_split(tmp_path):
  data = toy_coco.content()
  for category, frequency in zip(data['categories'], 'rcf', strict=True):
    category['frequency'] = frequency
  split = splits.lvis_split(toy_coco.read(tmp_path, data))
  assert split.novel == (9,) and split.base == (3, 5)
  del data['categories'][1]['frequency']
  with pytest.raises(UserError, match="category 5 has no 'frequency'"):
    splits.lvis_split(toy_coco.read(tmp_path, data))
