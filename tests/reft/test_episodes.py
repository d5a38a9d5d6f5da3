"""Episodes: what every plan keeps, and the batches made of them."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpapers.engine.errors import UserError
from jaxpapers.reft import coco_data, episodes, scale_jitter, splits
from tests.reft import toy_coco

CLASSES = 5


@settings(max_examples=60, deadline=None)
@given(
  st.lists(st.lists(st.integers(0, CLASSES - 1), max_size=3), min_size=1, max_size=12).filter(any),
  st.integers(1, 6),
  st.one_of(st.none(), st.integers(1, CLASSES)),
  st.integers(1, 3),
  st.integers(0, 2**31),
  st.integers(0, 1000),
)
def test_plans(per_image, batch, limit, shots, seed, step):
  classes = np.full((len(per_image), 3), -1)
  for i, labels in enumerate(per_image):
    classes[i, : len(labels)] = labels
  objects = coco_data.objects_of(classes)
  made = episodes.Episodes(
    objects, len(per_image), CLASSES, batch_size=batch, seed=seed, episode_classes=limit, shots=shots
  )
  plan, again = made.plan(step), made.plan(step)
  for x, y in zip(plan, again, strict=True):
    np.testing.assert_array_equal(x, y)
  assert plan.queries.shape == (batch,) and plan.support.shape == (batch, made.per_row) == plan.support_class.shape
  there = plan.support >= 0
  np.testing.assert_array_equal(there, plan.support_class >= 0)
  rows = plan.support[there]
  assert len(set(rows.tolist())) == len(rows)
  np.testing.assert_array_equal(objects.label[rows], plan.support_class[there])
  np.testing.assert_array_equal(np.flatnonzero(plan.active), np.unique(objects.label[rows]))
  assert plan.active.sum() <= (limit or CLASSES)
  inside = np.isin(objects.image[rows], plan.queries)
  np.testing.assert_array_equal(inside, plan.same_image[there])
  assert not plan.same_image[~there].any()
  for label in range(CLASSES):
    mine = objects.image[objects.label == label]
    found = plan.support_class[there] == label
    if inside[found].any():
      assert len(np.unique(mine)) == 1
    outside = np.sum(~np.isin(mine, plan.queries))
    if plan.active[label] and not inside[found].any():
      assert found.sum() == min(shots, outside)
    if limit is None and outside:
      assert plan.active[label]
  # Classes that a query image shows come first.
  shown = np.intersect1d(objects.label[np.isin(objects.image, plan.queries)], np.flatnonzero(plan.active))
  others = plan.active.sum() - len(shown)
  if others:
    possible = [
      c
      for c in np.unique(objects.label[np.isin(objects.image, plan.queries)])
      if np.any(~np.isin(objects.image[objects.label == c], plan.queries))
    ]
    assert set(possible) <= set(shown)


def test_every_epoch_shows_every_image():
  objects = coco_data.objects_of(np.arange(12)[:, None] % CLASSES)
  made = episodes.Episodes(objects, 12, CLASSES, batch_size=4, seed=0)
  for epoch in range(2):
    seen = np.concatenate([made.plan(3 * epoch + i).queries for i in range(3)])
    assert sorted(seen) == list(range(12))


def test_supports_are_drawn_evenly():
  objects = coco_data.objects_of(np.zeros((6, 1), int))
  made = episodes.Episodes(objects, 6, 1, batch_size=1, seed=0)
  counts = np.bincount([made.plan(step).support[0, 0] for step in range(600)], minlength=6)
  assert counts.min() > 60 and counts.max() < 140


def test_one_shot_uses_the_object_itself():
  objects = coco_data.objects_of(np.arange(CLASSES)[:, None])
  plan = episodes.Episodes(objects, CLASSES, CLASSES, batch_size=2, seed=0).plan(0)
  assert plan.active.all() and plan.same_image.sum() == 2
  assert set(plan.support_class[plan.same_image]) == set(plan.queries)


def test_bad_episodes():
  with pytest.raises(UserError, match='at least one labelled object'):
    episodes.Episodes(coco_data.objects_of(np.full((2, 1), -1)), 2, 1, batch_size=1, seed=0)
  with pytest.raises(UserError, match='shots of episodes is at least 1, not 0'):
    episodes.Episodes(coco_data.objects_of(np.zeros((2, 1))), 2, 1, batch_size=1, seed=0, shots=0)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  folder = tmp_path_factory.mktemp('toy')
  annotations = toy_coco.read(folder)
  split = splits.make_split(annotations, ['cat', 'dog'], ['owl'])
  return coco_data.OutlinedImages(annotations, folder, split)


def pipeline(source, limit, **options):
  made = episodes.Episodes(source.objects, len(source), 3, batch_size=4, seed=7, episode_classes=limit)
  query = functools.partial(scale_jitter.jitter, size=32, scale=(0.8, 1.0), max_objects=2)
  support = functools.partial(scale_jitter.jitter_support, size=16)
  return made, episodes.episode_batches(source, made, query, support, seed=3, **options)


def test_batches_follow_the_plan(source):
  made, batches = pipeline(source, 2)
  seen = set()
  for step in range(12):
    plan, batch = made.plan(step), batches(step)
    assert batch['image'].shape == (4, 32, 32, 3) and batch['masks'].shape == (4, 2, 32, 32)
    assert batch['support_images'].shape == (4, made.per_row, 16, 16, 3)
    np.testing.assert_array_equal(batch['support_classes'], plan.support_class)
    np.testing.assert_array_equal(batch['same_image'], plan.same_image)
    there = plan.support >= 0
    np.testing.assert_array_equal(batch['support_masks'].any(axis=(2, 3)), there)
    assert not there.all() and not batch['support_images'][~there].any()
    np.testing.assert_array_equal(batch['active'], np.tile(plan.active, (4, 1)))
    for query, classes in zip(plan.queries, batch['classes'], strict=True):
      # At this scale no object is lost: exactly the labels of the episode's classes remain.
      labels = source[int(query)]['labels']
      assert sorted(classes[classes >= 0]) == sorted(labels[plan.active[labels]])
    seen |= set(np.flatnonzero(plan.active))
  assert seen == {0, 1, 2}


def test_two_hosts_read_one_batch(source):
  _, whole = pipeline(source, None)
  shares = [pipeline(source, None, process=i, processes=2)[1](1) for i in range(2)]
  for key, value in whole(1).items():
    np.testing.assert_array_equal(value, np.concatenate([share[key] for share in shares]))
  ahead = whole.iterate(1)
  np.testing.assert_array_equal(next(ahead)['support_images'], whole(1)['support_images'])
  ahead.close()
