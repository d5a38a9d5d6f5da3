"""FewShapes: what the sets promise, and the outlines."""

import numpy as np
import pytest

from jaxpapers.engine.errors import UserError
from jaxpapers.reft import fewshapes


@pytest.fixture(scope='module')
def train():
  return fewshapes.base_set(3, 600)


def test_sets_are_functions_of_the_seed(train):
  again, other = fewshapes.base_set(3, 300), fewshapes.base_set(4, 300)
  for whole, part in zip(train, again, strict=True):
    np.testing.assert_array_equal(whole[:300], part)
  assert not np.array_equal(other.images[0], again.images[0])
  assert not np.array_equal(fewshapes.test_set(3, 1).images, again.images[:1])


def test_base_set_labels_base_objects_only(train):
  assert train.images.shape == (600, 48, 48, 3) and train.images.dtype == np.float32
  assert train.images.min() >= 0 and train.images.max() <= 1
  assert train.masks.shape == (600, 2, 48, 48) and train.masks.dtype == bool
  assert train.classes.dtype == np.int32 and set(np.unique(train.classes)) == {-1, *fewshapes.BASE}
  there = train.classes >= 0
  np.testing.assert_array_equal(train.masks.any(axis=(2, 3)), there)
  assert there[:, 0].all() and 0.4 < there[:, 1].mean() < 0.6
  assert not (train.masks[:, 0] & train.masks[:, 1]).any()


def test_some_base_images_hide_a_novel_object(monkeypatch):
  monkeypatch.setattr(fewshapes, '_UNLABELLED', 0.0)
  without = fewshapes.base_set(3, 1)
  monkeypatch.setattr(fewshapes, '_UNLABELLED', 1.0)
  seen = fewshapes.base_set(3, 1)
  np.testing.assert_array_equal(without.masks, seen.masks)
  changed = np.abs(without.images - seen.images).max(axis=-1)[0] > 0.3
  assert changed.sum() > 50  # an object more, told by no mask


def test_later_objects_find_a_place_and_are_hardly_cut(monkeypatch):
  monkeypatch.setattr(fewshapes, '_one_or_two', lambda rng, n, classes: rng.choice(classes, (n, 2)))
  scenes = fewshapes.base_set(0, 200)
  assert np.mean(scenes.classes[:, 1] >= 0) > 0.97
  areas = scenes.masks.sum(axis=(2, 3))
  # The smallest outline, a bar of radius 8, has 73 pixels; up to 5 in 100 may be hidden.
  assert areas[scenes.classes >= 0].min() > 60
  monkeypatch.setattr(fewshapes, '_OVERLAP', 1.1)
  covered = fewshapes.base_set(0, 200)
  assert covered.masks.sum(axis=(2, 3))[covered.classes >= 0].min() < 40


def test_test_set_has_all_classes():
  scenes = fewshapes.test_set(0, 300)
  assert np.bincount(scenes.classes[scenes.classes >= 0], minlength=12).min() >= 20
  assert scenes.masks.shape[1] == 2


def test_shots_are_nested_and_one_object_each():
  five, two = fewshapes.shots(1, 5), fewshapes.shots(1, 2)
  assert five.masks.shape == (60, 1, 48, 48)
  np.testing.assert_array_equal(five.classes[:, 0], np.tile(np.arange(12), 5))
  for large, small in zip(five, two, strict=True):
    np.testing.assert_array_equal(large[:24], small)
  assert not np.array_equal(five.images[:12], five.images[12:24])
  assert not np.array_equal(fewshapes.shots(2, 1).images, five.images[:12])


def test_keep_classes(train):
  kept = fewshapes.keep_classes(train, (2, 5))
  assert set(np.unique(kept.classes)) == {-1, 2, 5} and (kept.classes >= 0).any(axis=1).all()
  np.testing.assert_array_equal(kept.masks.any(axis=(2, 3)), kept.classes >= 0)
  assert np.sum(kept.classes == 2) == np.sum(train.classes == 2)


@pytest.mark.parametrize(
  'kind, area',
  [
    (0, np.pi * 0.85**2),
    (1, 1.44**2),
    (2, 1.5 * (1.5 / 2.2)),
    (3, np.pi * (0.95**2 - 0.5**2)),
    (4, 2 * 1.8 * 0.56 - 0.56**2),
    (5, np.pi * (0.42**2 + 0.42 * 0.58 + 0.58**2 / 3)),
    (6, 1.9 * 0.6),
    (10, 1.7**2 - 0.9**2),
  ],
)
def test_areas_of_outlines(kind, area):
  """Closed forms, by a fine grid."""
  at = (np.arange(-750, 750) + 0.5) / 500
  inside = fewshapes.outline(kind, at[None, :], at[:, None])
  assert inside.sum() / 500**2 == pytest.approx(area, rel=5e-3)


@pytest.mark.parametrize(
  'kind, inside, outside',
  [
    (2, (0.0, 0.8), (0.0, -0.8)),  # the tip points down
    (7, (-0.7, 0.0), (0.6, 0.0)),
    (8, (0.0, 0.5), (0.0, -0.5)),
    (9, (0.6, 0.6), (0.6, -0.6)),
    (11, (0.7, -0.6), (0.7, 0.6)),
    (5, (np.cos(0.0) * 0.95, 0.0), (0.95 * np.cos(np.pi / 5), 0.95 * np.sin(np.pi / 5))),
  ],
)
def test_orientation_of_outlines(kind, inside, outside):
  assert fewshapes.outline(kind, *map(np.asarray, inside)) and not fewshapes.outline(kind, *map(np.asarray, outside))


def test_bad_numbers():
  with pytest.raises(UserError, match='count of FewShapes is at least 1, not 0'):
    fewshapes.base_set(0, 0)
  with pytest.raises(UserError, match='k of FewShapes is at least 1, not 0'):
    fewshapes.shots(0, 0)
  with pytest.raises(UserError, match='at least 0, not -1'):
    fewshapes.test_set(-1)
  with pytest.raises(ValueError, match=r'0\.\.11, not 12'):
    fewshapes.outline(12, np.zeros(1), np.zeros(1))
