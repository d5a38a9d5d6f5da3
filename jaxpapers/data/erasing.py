"""Random erasing (Zhong et al., arXiv 1708.04896): a rectangle of each image is overwritten."""

import math

import numpy as np

MODES = ('const', 'rand', 'pixel')


def random_erasing(
  images: np.ndarray,
  rng: np.random.Generator,
  probability: float = 0.25,
  mode: str = 'const',
  area: tuple[float, float] = (0.02, 1 / 3),
  ratio: tuple[float, float] = (0.3, 1 / 0.3),
) -> np.ndarray:
  """Overwrites, with the given probability, one rectangle in each of a batch of normalised images.

  Args:
    images: float [batch, height, width, channels]; not changed.
    rng: source of randomness.
    probability: of an image to lose a rectangle.
    mode: what comes in: 'const' zeros, 'rand' one normal colour per rectangle, 'pixel' one per pixel.
    area: bounds of the rectangle's share of the image.
    ratio: bounds of height / width, drawn log-uniformly. A rectangle that does not fit is drawn again, ten times.

  Raises:
    ValueError: for an unknown mode.
  """
  if mode not in MODES:
    raise ValueError(f'Unknown mode {mode!r} of random erasing; known: {", ".join(MODES)}.')
  images = images.copy()
  _, height, width, channels = images.shape
  for index in np.flatnonzero(rng.random(len(images)) < probability):
    for _ in range(10):
      target = rng.uniform(*area) * height * width
      aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
      h, w = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
      if 0 < h < height and 0 < w < width:
        top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
        shape = {'const': None, 'rand': (1, 1, channels), 'pixel': (h, w, channels)}[mode]
        value = 0.0 if shape is None else rng.standard_normal(shape, np.float32)
        images[index, top : top + h, left : left + w] = value
        break
  return images
