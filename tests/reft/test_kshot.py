"""The sampler's promises and refusals."""

import pytest

from jaxpapers import reft


def annotations(per_image):
  return [
    {'id': 100 * image + i, 'image_id': image, 'category_id': 1} for image, n in enumerate(per_image) for i in range(n)
  ]


def test_sets_are_nested_and_exact():
  chosen = reft.sample_shots(annotations([1, 2, 1, 3, 1, 1, 2, 1]), {1: 'cat'}, 3, (1, 2, 5))
  ids = {k: [a['id'] for a in chosen[k][1]] for k in chosen}
  assert {k: len(v) for k, v in ids.items()} == {1: 1, 2: 2, 5: 5}
  assert ids[5][:2] == ids[2] and ids[2][:1] == ids[1]
  assert chosen == reft.sample_shots(annotations([1, 2, 1, 3, 1, 1, 2, 1]), {1: 'cat'}, 3, (1, 2, 5))


def test_too_few_images():
  with pytest.raises(ValueError, match=r'Category 1 \(cat\): 3 shots .* at least 3 images; found 8 objects in 2\.'):
    reft.sample_shots(annotations([4, 4]), {1: 'cat'}, 0, (3,))


def test_no_choice_adds_up():
  with pytest.raises(ValueError, match=r'Category 1 \(cat\): no choice of whole images holds exactly 3 objects'):
    reft.sample_shots(annotations([2, 2, 2]), {1: 'cat'}, 0, (3,))


def test_unlisted_category():
  with pytest.raises(ValueError, match='Annotation 7 has category 9'):
    reft.sample_shots([{'id': 7, 'image_id': 0, 'category_id': 9}], {1: 'cat'}, 0, (1,))


def test_a_draw_that_runs_into_a_dead_end_stops():
  """With 2 of 3 drawn, images of two and three objects can't fill the third place, though at first 3 was in reach."""
  failed = 0
  for seed in range(20):
    try:
      assert len(reft.sample_shots(annotations([2, 2, 3]), {1: 'cat'}, seed, (3,))[3][1]) == 3
    except ValueError as error:
      assert 'exactly 3 objects with the 2 that this seed drew' in str(error)
      failed += 1
  assert 0 < failed < 20
