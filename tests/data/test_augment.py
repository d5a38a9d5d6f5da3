import numpy as np
import pytest
import skimage.data
from PIL import Image

from jaxpapers.data import erasing, randaugment

PHOTO = Image.fromarray(skimage.data.astronaut()).resize((48, 40))
PIXELS = np.asarray(PHOTO).astype(float)


def rng(seed=0):
  return np.random.default_rng(seed)


@pytest.mark.parametrize('name', randaugment.OPERATIONS)
@pytest.mark.parametrize('level', [0.0, 0.5, 1.0])
def test_operations_keep_size_and_mode(name, level):
  changed = randaugment.OPERATIONS[name](PHOTO, level, rng())
  assert changed.size == PHOTO.size and changed.mode == 'RGB'


GRADED = sorted(set(randaugment.OPERATIONS) - {'auto_contrast', 'equalize', 'invert'})


@pytest.mark.parametrize('name', GRADED)
def test_severity_grows_with_the_level(name):
  def change(level):
    results = [randaugment.OPERATIONS[name](PHOTO, level, rng(seed)) for seed in range(8)]
    return np.mean([np.abs(np.asarray(result) - PIXELS).mean() for result in results])

  if name != 'posterize':  # four bits are its mildest setting
    assert change(0.0) == 0
  assert change(0.0) < change(0.4) < change(0.9)


def test_fifteen_operations():
  assert len(randaugment.OPERATIONS) == 15


def test_rand_augment_is_a_function_of_the_generator():
  first, again = (np.asarray(randaugment.rand_augment(PHOTO, rng(3))) for _ in range(2))
  np.testing.assert_array_equal(first, again)
  results = {np.asarray(randaugment.rand_augment(PHOTO, rng(seed))).tobytes() for seed in range(40)}
  assert len(results) > 20


def test_rand_augment_does_nothing_half_of_the_time_per_operation():
  untouched = [randaugment.rand_augment(PHOTO, rng(seed), operations=1) is PHOTO for seed in range(400)]
  assert 0.42 < np.mean(untouched) < 0.58
  assert randaugment.rand_augment(PHOTO, rng(), probability=0.0) is PHOTO
  assert randaugment.rand_augment(PHOTO, rng(), operations=0) is PHOTO


def test_rand_augment_magnitude_is_checked():
  with pytest.raises(ValueError, match='from 0 to 10, not 12'):
    randaugment.rand_augment(PHOTO, rng(), magnitude=12)


@pytest.mark.parametrize('mode', erasing.MODES)
def test_erasing_overwrites_one_rectangle(mode):
  images = np.full((60, 24, 20, 3), 7, np.float32)
  erased = erasing.random_erasing(images, rng(), 1.0, mode)
  assert (images == 7).all() and erased.dtype == np.float32 and erased.shape == images.shape
  changed = (erased != 7).any(-1)
  for image, pixels in zip(erased, changed, strict=True):
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    box = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert box.all() and 0.01 < box.mean() * box.size / pixels.size < 0.36
    colors = np.unique(image[pixels], axis=0)
    if mode == 'pixel':
      assert len(colors) == box.size
    else:
      assert len(colors) == 1 and (mode == 'rand' or (colors == 0).all())


def test_erasing_probability():
  images = np.ones((500, 8, 8, 3), np.float32)
  share = (erasing.random_erasing(images, rng(), 0.25) != 1).any((1, 2, 3)).mean()
  assert 0.2 < share < 0.3
  np.testing.assert_array_equal(erasing.random_erasing(images, rng(), 0.0), images)
  with pytest.raises(ValueError, match='const, rand, pixel'):
    erasing.random_erasing(images, rng(), mode='zeros')
