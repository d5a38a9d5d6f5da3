"""Images with outlines, large-scale jitter and support sets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxpapers.data.coco import decode_mask
from jaxpapers.engine.errors import UserError
from jaxpapers.reft import coco_data, scale_jitter, segmentations, splits
from tests.reft import toy_coco


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('toy')


@pytest.fixture(scope='module')
def annotations(folder):
  return toy_coco.read(folder)


@pytest.fixture(scope='module')
def split(annotations):
  return splits.make_split(annotations, ['cat', 'dog'], ['owl'])


@pytest.fixture(scope='module')
def source(folder, annotations, split):
  return coco_data.OutlinedImages(annotations, folder, split)


def test_reads_images_and_objects(source):
  assert source.ids == [10, 20, 30, 40, 50]  # the last image has no object
  example = source[2]
  assert example['image'].shape == (*toy_coco.SIZE, 3) and example['id'] == 30 and '2.png' in example['name']
  np.testing.assert_array_equal(example['labels'], [1, 2])
  mask = decode_mask(example['segmentations'][1], *toy_coco.SIZE)
  assert mask.sum() == 400 and mask[8:28, 30:50].all()
  np.testing.assert_array_equal(source.objects.image, [0, 0, 1, 2, 2, 3, 3, 4, 4])
  np.testing.assert_array_equal(source.objects.slot, [0, 1, 0, 0, 1, 0, 1, 0, 1])
  np.testing.assert_array_equal(source.objects.label, [0, 1, 0, 1, 2, 2, 0, 1, 1])


def test_objects_of_other_classes_are_not_labelled(folder, annotations, split):
  base = coco_data.OutlinedImages(annotations, folder, split, classes=split.base, keep_empty=True)
  assert len(base) == 6 and 2 not in base.objects.label and base[2]['labels'].tolist() == [1]
  assert base[5]['labels'].shape == (0,) and base[5]['segmentations'] == []


def test_crowds_are_left_out(folder, annotations, split):
  data = toy_coco.content()
  data['annotations'][0]['iscrowd'] = 1
  crowded = coco_data.OutlinedImages(toy_coco.read(folder, data), folder, split)
  assert crowded[0]['labels'].tolist() == [1]


def test_files_that_do_not_fit(folder, annotations, split, tmp_path):
  with pytest.raises(UserError, match=r'image 10 \(0\.png\) has 2 objects: set config\.data\.max_objects.* not 1'):
    coco_data.OutlinedImages(annotations, folder, split, max_objects=1)
  with pytest.raises(UserError, match=r'0\.png \(image 10 of .*instances\.json\) is missing'):
    coco_data.OutlinedImages(annotations, tmp_path, split)
  with pytest.raises(UserError, match='No folder .*absent'):
    coco_data.OutlinedImages(annotations, tmp_path / 'absent', split)
  here = coco_data.OutlinedImages(toy_coco.read(tmp_path), tmp_path, split)
  Image.new('RGB', (40, 60)).save(tmp_path / '1.png')
  with pytest.raises(UserError, match=r'1\.png \(image 20\) is 40x60, not 60x40 as .*instances\.json says'):
    here[1]
  whole = (tmp_path / '2.png').read_bytes()
  (tmp_path / '2.png').write_bytes(whole[:300])
  with pytest.raises(UserError, match=r'2\.png is no complete image'):
    here[2]


def sides(low, high):
  return st.tuples(st.integers(low, high), st.integers(low, high))


@settings(max_examples=60, deadline=None)
@given(sides(8, 80), st.integers(8, 64), st.floats(0.1, 2), st.booleans(), st.integers(0, 2**31))
def test_masks_move_like_pixels(source, size, scale, flip, seed):
  """Run lengths and the polygon of one rectangle cover the same pixels of the canvas, up to the border."""
  rng = np.random.default_rng(seed)
  placement = scale_jitter.draw_placement(source, rng, size, (scale, scale), flip=float(flip))
  assert placement.flip == flip
  box = scale * size
  assert max(placement.resized[0] - box, placement.resized[1] - box) <= 0.5
  assert max(r / box for r in placement.resized) == pytest.approx(1, abs=0.5 / box + 1e-9)
  mask = np.zeros(source, bool)
  top, left = rng.integers(0, source[0] - 3), rng.integers(0, source[1] - 3)
  bottom, right = rng.integers(top + 3, source[0] + 1), rng.integers(left + 3, source[1] + 1)
  mask[top:bottom, left:right] = True
  pixels = {'size': list(source), 'counts': segmentations.run_lengths(_encode(mask)['counts'])}
  first = segmentations.place_mask(pixels, placement)
  second = segmentations.place_mask(toy_coco.rectangle(*map(int, (left, top, right, bottom))), placement)
  height, width = placement.covered
  assert 0 < height <= size and 0 < width <= size
  for placed in (first, second):
    assert not placed[height:].any() and not placed[:, width:].any()
  rows, columns = first.any(axis=1).sum() + 2, first.any(axis=0).sum() + 2
  assert np.sum(first != second) <= 2 * (rows + columns)


def _encode(mask):
  return segmentations.mask_ops.encode(np.asfortranarray(mask, np.uint8))


def test_crops_of_unscaled_images_are_exact():
  rng = np.random.default_rng(0)
  image, mask = rng.integers(0, 256, (40, 60, 3), np.uint8), rng.random((40, 60)) < 0.5
  placement = segmentations.Placement((40, 60), True, (40, 60), (5, 30), (32, 48))
  got = segmentations.place_image(image, placement, 128)
  np.testing.assert_array_equal(got[:, :30], image[:, ::-1][5:37, 30:])
  assert (got[:, 30:] == 128).all() and placement.covered == (32, 30)
  moved = segmentations.place_mask(_encode(mask), placement)
  np.testing.assert_array_equal(moved[:, :30], mask[:, ::-1][5:37, 30:])
  outline = toy_coco.rectangle(3, 8, 20, 30)
  moved = segmentations.place_mask(outline, placement)
  np.testing.assert_array_equal(moved[:, :30], decode_mask(outline, 40, 60)[:, ::-1][5:37, 30:])


def test_crop_offsets_are_independent():
  rng = np.random.default_rng(1)
  drawn = np.asarray([scale_jitter.draw_placement((50, 50), rng, 32, (2, 2)).offset for _ in range(400)])
  assert drawn.min() == 0 and drawn.max() == 32
  assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.15


def test_jitter_keeps_visible_objects(source):
  sizes = set()
  for seed in range(40):
    example = source[3]
    got = scale_jitter.jitter(example, np.random.default_rng(seed), size=32, scale=(2, 4), max_objects=4)
    assert got['image'].shape == (32, 32, 3) and got['masks'].shape == (4, 32, 32)
    there = got['classes'] >= 0
    np.testing.assert_array_equal(got['masks'].any(axis=(1, 2)), there)
    assert there.tolist() == sorted(there, reverse=True)
    assert set(got['classes'][there]) <= {0, 2}
    sizes.add(int(there.sum()))
  assert len(sizes) > 1  # some crops lose an object
  with pytest.raises(UserError, match=r'3\.png \(image 40\) has 2 objects'):
    scale_jitter.jitter(source[3], np.random.default_rng(0), max_objects=1)


def test_support_keeps_a_fifth_of_its_object(source):
  example = source[3]
  shares = []
  for seed in range(60):
    image, mask = scale_jitter.jitter_support(example, 1, np.random.default_rng(seed), size=32, scale=(1.5, 3.0))
    assert image.shape == (32, 32, 3) and mask.any()
    shares.append(mask.sum() / 400)
  # A box of s * 32 pixels around 60 columns: the object grows by (s * 32 / 60)^2.
  assert min(shares) > scale_jitter.KEPT * (1.5 * 32 / 60) ** 2 * 0.9
  assert np.std(shares) > 0.05


def test_support_that_would_vanish_is_shown_whole(source):
  example = source[3]
  image, mask = scale_jitter.jitter_support(example, 0, np.random.default_rng(0), size=32, scale=(50, 50), tries=3)
  want = segmentations.place_image(example['image'], coco_data.fit_placement(toy_coco.SIZE, 32), 128)
  np.testing.assert_array_equal(image, want)
  assert mask.any()
  tiny = {**example, 'segmentations': [toy_coco.rectangle(30, 20, 31, 21)]}
  _, mask = scale_jitter.jitter_support(tiny, 0, np.random.default_rng(0), size=4, tries=1)
  assert mask.sum() == 1 and mask[1, 2]


def test_support_set_pads_missing_shots(source):
  found = coco_data.support_set(source, 3, [0, 2], 32)
  np.testing.assert_array_equal(found.classes, [0, 0, 0, 2, 2, -1])
  assert found.images.shape == (6, 32, 32, 3) and found.masks[:5].any(axis=(1, 2)).all()
  assert not found.masks[5].any() and not found.images[5].any()
  np.testing.assert_array_equal(found.covered[0], [21, 32])
  assert not found.images[0, 21:].any() and not found.masks[0, 21:].any()
  # The first cat is the left rectangle of the first image.
  assert found.masks[0, 4:13, 3:13].all() and not found.masks[0, :, 15:].any()


def test_evaluation_transform(source):
  got = coco_data.evaluation_transform(60, 30, (64, 64))(source[0])
  assert got['image'].shape == (64, 64, 3) and got['id'] == 10
  np.testing.assert_array_equal(got['size'], toy_coco.SIZE)
  np.testing.assert_array_equal(got['image_size'], [30, 45])
  assert got['image'][:30, :45].any() and not got['image'][30:].any() and not got['image'][:, 45:].any()
