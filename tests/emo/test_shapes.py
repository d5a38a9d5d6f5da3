import numpy as np
import pytest

from jaxpapers.emo import shapes as module
from jaxpapers.emo.shapes import IGNORE, KINDS, MAX_SHAPES, OUTLINES, shapes

SET = shapes('train', 300, 64)


def test_types_and_determinism():
  again = shapes('train', 300, 64)
  for key, array in SET.items():
    np.testing.assert_array_equal(array, again[key])
  assert SET['image'].shape == (300, 64, 64, 3) and SET['image'].dtype == np.uint8
  assert {SET[key].dtype for key in ('label', 'classes', 'count', 'mask', 'same')} == {np.dtype(np.int32)}
  assert (shapes('test', 300, 64)['image'] != SET['image']).any()
  assert (shapes('train', 300, 64, seed=1)['image'] != SET['image']).any()


def test_boxes_agree_with_the_mask():
  for i in range(300):
    count = SET['count'][i]
    assert (SET['classes'][i, :count] >= 0).all() and (SET['classes'][i, count:] == -1).all()
    assert (SET['boxes'][i, count:] == 0).all()
    left = np.where(SET['mask'][i] == IGNORE, 0, SET['mask'][i])
    for box, kind in zip(SET['boxes'][i, :count].astype(int), SET['classes'][i, :count], strict=True):
      x1, y1, x2, y2 = box
      assert 0 <= x1 < x2 <= 64 and 0 <= y1 < y2 <= 64
      part = left[y1:y2, x1:x2] == kind + 1
      assert part[0].any() and part[-1].any() and part[:, 0].any() and part[:, -1].any()
      left[y1:y2, x1:x2][part] = 0
    assert (left == 0).all()


def test_border_is_one_pixel_of_background():
  shape = (SET['mask'] > 0) & (SET['mask'] != IGNORE)
  padded = np.pad(shape, ((0, 0), (1, 1), (1, 1)))
  beside = padded[:, 2:, 1:-1] | padded[:, :-2, 1:-1] | padded[:, 1:-1, 2:] | padded[:, 1:-1, :-2]
  np.testing.assert_array_equal(SET['mask'] == IGNORE, beside & ~shape)


def test_label_is_the_largest_shape_and_same_is_a_repeated_kind():
  areas = np.stack([(SET['mask'] == kind + 1).sum((1, 2)) for kind in range(len(KINDS))], 1)
  single = SET['same'] == 0
  np.testing.assert_array_equal(areas[single].argmax(1), SET['label'][single])
  for i in range(300):
    kinds = SET['classes'][i, : SET['count'][i]]
    assert (len(set(kinds)) < len(kinds)) == bool(SET['same'][i])
    assert SET['label'][i] in kinds
  share = SET['same'][SET['count'] > 1].mean()
  assert 0.4 < share < 0.6 and set(SET['count']) == set(range(1, MAX_SHAPES + 1))


@pytest.mark.parametrize('kind', KINDS)
def test_outlines(kind):
  u, v = np.meshgrid(*[np.linspace(-1.6, 1.6, 161)] * 2)
  distance = OUTLINES[kind](u, v)
  inside = distance < 0
  assert (np.hypot(u, v)[inside] <= 1.2).all() and 0.03 < inside.mean() < 0.35
  # A bound of the distance: no steeper than 1, or edges would be jagged.
  assert np.abs(np.diff(distance, axis=0)).max() <= 0.02 * 1.001


def test_odd_sizes_and_bad_arguments():
  odd = shapes('test', 20, 51)
  assert odd['image'].shape == (20, 51, 51, 3) and odd['boxes'].max() <= 51
  with pytest.raises(ValueError, match='at least 32'):
    shapes('train', 1, 16)
  with pytest.raises(ValueError, match='train, test'):
    shapes('val', 1, 64)


def test_colors_are_saturated():
  colors = module._colors(np.random.default_rng(0), 500)
  assert colors.min() >= 0 and colors.max() <= 1
  assert (colors.max(1) - colors.min(1) > 0.3).all()
  assert (np.bincount(colors.argmax(1)) > 100).all()
