import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpapers.data import detection_augment as detection
from jaxpapers.data import segmentation_augment as segmentation
from jaxpapers.data.photometric import photometric_distortion
from jaxpapers.engine.errors import UserError


def example(seed=0, objects=3, height=40, width=60):
  """Every object is a rectangle of its own colour, so that a box can be checked against the pixels."""
  rng = np.random.default_rng(seed)
  image = np.zeros((height, width, 3), np.uint8)
  boxes = []
  for k in range(objects):
    left, top = int(rng.integers(20 * k, 20 * k + 8)), int(rng.integers(0, height - 12))
    w, h = int(rng.integers(6, 11)), int(rng.integers(6, 12))
    image[top : top + h, left : left + w] = 50 * (k + 1)
    boxes.append([left, top, left + w, top + h])
  return {
    'image': image,
    'boxes': np.asarray(boxes, np.float32).reshape(-1, 4),
    'labels': np.arange(objects, dtype=np.int32),
    'crowd': np.zeros(objects, bool),
    'area': np.full(objects, 9.0, np.float32),
  }


def check_boxes(made, slack=0.0):
  """Each box is the extent of its colour; with slack, near the box: blurred borders have other objects' colours."""
  for box, label in zip(made['boxes'], made['labels'], strict=True):
    same = np.all(np.abs(made['image'].astype(int) - 50 * (label + 1)) < 8, axis=-1)
    if slack:
      far = np.ones_like(same)
      left, top, right, bottom = box.astype(int)
      far[max(top - 3, 0) : bottom + 3, max(left - 3, 0) : right + 3] = False
      same &= ~far
    rows, columns = np.nonzero(same)
    extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(box, extent, atol=slack)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31))
def test_boxes_follow_their_pixels(seed):
  rng = np.random.default_rng(seed)
  start = example(seed)
  expanded = detection.expand(start, rng, (9, 9, 9), probability=1.0)
  check_boxes(expanded)
  assert expanded['image'].shape[0] >= 40 and expanded['image'].shape[0] <= 160
  check_boxes(detection.random_flip(start, rng, probability=1.0))
  check_boxes(detection.resize(start, (80, 120)), slack=2)
  cropped = detection.min_iou_crop(start, rng)
  check_boxes(cropped)
  assert len(cropped['boxes']) >= 1 and len(cropped['boxes']) == len(cropped['labels']) == len(cropped['area'])
  height, width = cropped['image'].shape[:2]
  assert height >= 0.3 * 40 - 1 and width >= 0.3 * 60 - 1
  assert np.all(cropped['boxes'] >= 0) and np.all(cropped['boxes'] <= [width, height] * 2)


def test_the_input_is_not_changed():
  start, rng = example(), np.random.default_rng(0)
  before = {key: value.copy() for key, value in start.items()}
  for function in (detection.random_flip, detection.min_iou_crop):
    function(start, rng)
  detection.expand(start, rng, (0, 0, 0), probability=1.0)
  photometric_distortion(start['image'], rng)
  for key, value in before.items():
    np.testing.assert_array_equal(start[key], value)


def test_crop_without_objects_leaves_the_image():
  empty = example(objects=0)
  assert detection.min_iou_crop(empty, np.random.default_rng(0))['image'].shape == (40, 60, 3)


def test_keeping_the_aspect():
  made = detection.resize_keep_ratio(example(), 90, 50, (64, 96))
  assert made['image'].shape == (64, 96, 3)
  np.testing.assert_array_equal(made['image_size'], [50, 75])
  np.testing.assert_allclose(made['scale'], [1.25, 1.25])
  assert not made['image'][50:].any() and not made['image'][:, 75:].any()
  with pytest.raises(UserError, match='larger than the canvas'):
    detection.resize_keep_ratio(example(), 90, 50, (32, 96))


def test_padding_of_objects():
  start = example()
  start['crowd'][1] = True
  start['boxes'][2, 2] = start['boxes'][2, 0]  # clipped to nothing
  made = detection.pad_objects(start, 4)
  np.testing.assert_array_equal(made['truth_valid'], [True, False, False, False])
  assert made['boxes'].shape == (4, 4) and 'crowd' not in made
  kept = detection.pad_objects(start, 4, keep_crowd=True)
  np.testing.assert_array_equal(kept['crowd'], [False, True, False, False])
  np.testing.assert_array_equal(kept['area'], [9, 9, 0, 0])
  with pytest.raises(UserError, match='3 objects: set config.data.max_objects'):
    detection.pad_objects(example(), 2)


def test_photometric_distortion():
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (8, 9, 3), np.uint8)
  made = [photometric_distortion(image, np.random.default_rng(seed)) for seed in range(40)]
  assert all(x.dtype == np.uint8 and x.shape == image.shape for x in made)
  assert len({x.tobytes() for x in made}) > 20
  grey = np.full((2, 2, 3), 100, np.uint8)
  means = [photometric_distortion(grey, np.random.default_rng(seed)).mean() for seed in range(200)]
  assert 34 <= min(means) < 70 and 130 < max(means) <= 198  # (100 - 32) * 0.5 and (100 + 32) * 1.5
  np.testing.assert_array_equal(
    photometric_distortion(image, np.random.default_rng(5)), photometric_distortion(image, np.random.default_rng(5))
  )


def labelled(height=30, width=50):
  """The image shows the label, so that they can be compared after any transform."""
  label = np.zeros((height, width), np.uint8)
  label[:, width // 2 :] = 1
  label[height // 2 :, : width // 4] = 2
  label[0] = 255
  return {'image': np.repeat(label[..., None] * 60, 3, axis=-1), 'label': label}


def agrees(made):
  known = made['label'] != 255
  return np.mean(made['image'][..., 0][known] == made['label'][known] * 60)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31))
def test_labels_follow_their_pixels(seed):
  rng = np.random.default_rng(seed)
  made = segmentation.random_resize(labelled(), rng, long_side=200, short_side=60)
  assert 0.5 * 60 <= made['label'].shape[0] <= 2 * 60 + 1
  assert agrees(made) > 0.85  # bilinear against nearest differs at borders
  made = segmentation.random_flip(labelled(), rng, probability=1.0)
  assert agrees(made) == 1 and made['label'][5, 0] == 1
  made = segmentation.pad(segmentation.balanced_crop(labelled(), rng, (20, 64)), (24, 64))
  assert made['image'].shape == (24, 64, 3) and made['label'].shape == (24, 64) and agrees(made) == 1
  assert np.all(made['label'][20:] == 255) and not made['image'][20:].any()


def test_crops_avoid_a_single_class():
  rng = np.random.default_rng(0)
  shares = []
  for _ in range(50):
    label = segmentation.balanced_crop(labelled(), rng, (12, 12))['label']
    _, counts = np.unique(label[label != 255], return_counts=True)
    shares.append(counts.max() / counts.sum())
  assert np.mean(np.asarray(shares) < 0.75) > 0.8  # random crops alone: about half
  one = {'image': np.zeros((20, 20, 3), np.uint8), 'label': np.zeros((20, 20), np.uint8)}
  assert segmentation.balanced_crop(one, rng, (8, 8))['label'].shape == (8, 8)


def test_fit():
  image, covered = segmentation.fit(np.full((100, 200, 3), 7, np.uint8), 2048, 50, (64, 128))
  assert image.shape == (64, 128, 3) and tuple(covered) == (50, 100)
  assert np.all(image[:50, :100] == 7) and not image[50:].any() and not image[:, 100:].any()
  _, covered = segmentation.fit(np.zeros((100, 400, 3), np.uint8), 2048, 50, (64, 128))
  assert tuple(covered) == (32, 128)  # too wide for the canvas at a short side of 50
