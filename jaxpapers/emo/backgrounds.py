"""Real photographs as low-contrast backgrounds, out of the wheels of scikit-image and scikit-learn."""

import functools

import numpy as np
import skimage.data
import sklearn.datasets
from PIL import Image

SPLITS = ('train', 'test')
TEST_SHARE = 0.35


def backgrounds(split: str, count: int, size: int, rng: np.random.Generator, contrast: float = 0.45) -> np.ndarray:
  """Random parts of photographs, pulled towards a random grey.

  Training parts come from the left of each photograph and test parts from the right: they share no pixel.

  Args:
    split: 'train' or 'test'.
    count: number of images.
    size: height and width.
    rng: source of randomness.
    contrast: 0 is plain grey, 1 the photograph.

  Returns:
    float32 [count, size, size, 3] in [0, 1].
  """
  if split not in SPLITS:
    raise ValueError(f'Unknown split {split!r}; known: {", ".join(SPLITS)}.')
  photographs = _photographs(split, size)
  which = rng.integers(len(photographs), size=count)
  place = rng.random((2, count))
  flip = rng.random(count) < 0.5
  grey = rng.uniform(0.25, 0.6, count).astype(np.float32)
  images = np.empty((count, size, size, 3), np.float32)
  for number, photograph in enumerate(photographs):
    here = np.flatnonzero(which == number)
    height, width = photograph.shape[:2]
    top = (place[0, here] * (height - size + 1)).astype(int)
    left = (place[1, here] * (width - size + 1)).astype(int)
    rows = top[:, None] + np.arange(size)
    columns = left[:, None] + np.arange(size)
    images[here] = photograph[rows[:, :, None], columns[:, None, :]]
  images[flip] = images[flip, :, ::-1]
  return contrast * images + (1 - contrast) * grey[:, None, None, None]


@functools.lru_cache(maxsize=8)
def _photographs(split: str, size: int) -> tuple[np.ndarray, ...]:
  """float32 [height, width, 3] in [0, 1] each, this split's part, about twice `size` high."""
  pictures = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea(), skimage.data.rocket()]
  pictures += [np.stack([grey] * 3, -1) for grey in (skimage.data.grass(), skimage.data.gravel(), skimage.data.brick())]
  pictures += sklearn.datasets.load_sample_images().images
  parts = []
  for picture in pictures:
    height, width = picture.shape[:2]
    cut = round(width * (1 - TEST_SHARE))
    part = picture[:, :cut] if split == 'train' else picture[:, cut:]
    scale = max(2 * size / height, 1.25 * size / part.shape[1])
    shape = (max(size, round(part.shape[1] * scale)), max(size, round(height * scale)))
    part = np.asarray(Image.fromarray(part).resize(shape, Image.Resampling.BICUBIC), np.float32) / 255
    parts.append(part)
  return tuple(parts)
