import io

import numpy as np
import pytest
import skimage.data
from PIL import Image

from jaxpapers.data import image
from jaxpapers.engine.errors import UserError

PHOTO = Image.fromarray(skimage.data.astronaut())


def encode(picture, kind='PNG', **options):
  file = io.BytesIO()
  picture.save(file, kind, **options)
  return file.getvalue()


def rng(seed=0):
  return np.random.default_rng(seed)


def test_decode_png_is_lossless():
  np.testing.assert_array_equal(image.decode(encode(PHOTO)), np.asarray(PHOTO))


@pytest.mark.parametrize('mode', ['L', 'RGBA', 'P', 'CMYK', '1'])
def test_decode_gives_rgb_for_every_mode(mode):
  picture = PHOTO.resize((20, 16)).convert(mode)
  decoded = image.decode(encode(picture, 'JPEG' if mode == 'CMYK' else 'PNG'))
  assert decoded.shape == (16, 20, 3) and decoded.dtype == np.uint8
  reference = np.asarray(picture.convert('RGB'), float)
  assert np.abs(decoded - reference).mean() < 12


@pytest.mark.parametrize('kind', ['PNG', 'JPEG'])
def test_damaged_images_are_named(kind):
  content = encode(PHOTO, kind)
  for damaged in (content[: len(content) // 2], b'', b'not an image'):
    with pytest.raises(UserError, match=r'cats/7\.jpg cannot be decoded'):
      image.decode(damaged, 'cats/7.jpg')


def test_center_crop_is_the_centre():
  gradient = np.broadcast_to(np.linspace(0, 255, 256)[None, :, None], (128, 256, 3)).astype(np.uint8)
  crop = np.asarray(image.center_crop(Image.fromarray(gradient), 56, 64))
  assert crop.shape == (56, 56, 3)
  # The short side 128 becomes 64, so the crop spans the columns 72..184 of 256.
  np.testing.assert_allclose(crop[:, [0, -1], 0].mean(0), [73, 183], atol=2)
  with pytest.raises(ValueError, match='56 pixels out of a short side of 50'):
    image.center_crop(PHOTO, 56, 50)


def test_reduced_decoding_changes_little():
  content = encode(PHOTO, 'JPEG', quality=95)
  reduced = image.center_crop(image.open_image(content), 56, 64)
  full = image.center_crop(Image.fromarray(image.decode(content)), 56, 64)
  difference = np.abs(np.asarray(reduced, float) - np.asarray(full, float)).mean()
  assert 0 < difference < 2


def test_random_box_keeps_its_bounds():
  shares, ratios = [], []
  for seed in range(300):
    left, top, right, bottom = image.random_box(120, 90, rng(seed), (0.08, 1.0), (3 / 4, 4 / 3))
    assert 0 <= left < right <= 120 and 0 <= top < bottom <= 90
    shares.append((right - left) * (bottom - top) / (120 * 90))
    ratios.append((right - left) / (bottom - top))
  assert 0.07 < min(shares) < 0.12 and max(shares) > 0.8
  assert 0.7 < min(ratios) < 0.8 and 1.25 < max(ratios) < 1.4


def test_random_box_of_a_narrow_image_is_central():
  assert image.random_box(1000, 10, rng(), (0.9, 1.0), (3 / 4, 4 / 3)) == (493, 0, 506, 10)


def test_random_resized_crop():
  first, again, other = (np.asarray(image.random_resized_crop(PHOTO, 48, rng(s))) for s in (1, 1, 2))
  assert first.shape == (48, 48, 3) and first.dtype == np.uint8
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()
  whole = image.random_resized_crop(PHOTO, 48, rng(), (1.0, 1.0), (1.0, 1.0), (image.BICUBIC,))
  np.testing.assert_array_equal(np.asarray(whole), np.asarray(PHOTO.resize((48, 48), image.BICUBIC)))


def test_random_flip():
  images = np.random.default_rng(0).integers(256, size=(1000, 3, 4, 1), dtype=np.uint8)
  np.testing.assert_array_equal(image.random_flip(images, rng(), 1.0), images[:, :, ::-1])
  np.testing.assert_array_equal(image.random_flip(images, rng(), 0.0), images)
  flipped = image.random_flip(images, rng(), 0.3)
  assert flipped.dtype == np.uint8 and 0.25 < (flipped != images).any((1, 2, 3)).mean() < 0.35


def test_random_crop_shifts_the_image():
  images = np.arange(1, 1 + 200 * 6 * 6, dtype=np.float32).reshape(200, 6, 6, 1)
  cropped = image.random_crop(images, rng(), padding=2)
  assert cropped.shape == images.shape
  shifts = set()
  for before, after in zip(images[..., 0], cropped[..., 0], strict=True):
    padded = np.pad(before, 2)
    found = [(i, j) for i in range(5) for j in range(5) if (padded[i : i + 6, j : j + 6] == after).all()]
    assert len(found) == 1
    shifts.update(found)
  assert len(shifts) == 25
  np.testing.assert_array_equal(image.random_crop(images, rng(), padding=0), images)


def test_normalize():
  values = image.normalize(np.array([[[0, 128, 255]]], np.uint8))
  expected = (np.array([0, 128, 255]) / 255 - image.IMAGENET_MEAN) / image.IMAGENET_STD
  np.testing.assert_allclose(values[0, 0], expected, atol=1e-6)
  assert values.dtype == np.float32


def test_color_jitter():
  jittered = image.color_jitter(PHOTO, rng(), hue=0.1)
  assert jittered.size == PHOTO.size and jittered.mode == 'RGB'
  assert (np.asarray(jittered) != np.asarray(PHOTO)).any()
  np.testing.assert_array_equal(np.asarray(image.color_jitter(PHOTO, rng(), hue=0.1)), np.asarray(jittered))
  same = image.color_jitter(PHOTO, rng(), 0, 0, 0, 0)
  np.testing.assert_array_equal(np.asarray(same), np.asarray(PHOTO))
