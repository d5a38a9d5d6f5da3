"""RandAugment (Cubuk et al., arXiv 1909.13719) with operations whose severity grows with the magnitude.

The settings that recipes write as `rand-m9-mstd0.5-inc1`: two operations per image, each drawn uniformly from fifteen
and carried out with probability 1/2 at a magnitude drawn around 9 of 10. Where this is used, colour jitter is not.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from jaxpapers.data.image import BICUBIC, BILINEAR

FILL = (124, 116, 104)  # the mean colour of ImageNet, for what moves into the picture
MAX_MAGNITUDE = 10.0


def rand_augment(
  image: Image.Image,
  rng: np.random.Generator,
  magnitude: float = 9.0,
  magnitude_std: float = 0.5,
  operations: int = 2,
  probability: float = 0.5,
) -> Image.Image:
  """Applies a few random operations to an RGB image; its size stays.

  Args:
    image: RGB.
    rng: source of randomness.
    magnitude: mean severity, 0 to 10.
    magnitude_std: standard deviation of the severity; what leaves [0, 10] is clipped.
    operations: drawn with replacement from OPERATIONS.
    probability: of each drawn operation to be carried out.
  """
  if not 0 <= magnitude <= MAX_MAGNITUDE:
    raise ValueError(f'The magnitude of RandAugment goes from 0 to {MAX_MAGNITUDE:g}, not {magnitude}.')
  names = sorted(OPERATIONS)
  for index in rng.integers(len(names), size=operations):
    if rng.random() >= probability:
      continue
    level = float(np.clip(rng.normal(magnitude, magnitude_std), 0, MAX_MAGNITUDE)) / MAX_MAGNITUDE
    image = OPERATIONS[names[index]](image, level, rng)
  return image


def _signed(value: float, rng: np.random.Generator) -> float:
  return value if rng.random() < 0.5 else -value


def _affine(image: Image.Image, matrix: tuple[float, ...], rng: np.random.Generator) -> Image.Image:
  """Output pixel (x, y) is input pixel (a x + b y + c, d x + e y + f)."""
  resample = (BILINEAR, BICUBIC)[int(rng.integers(2))]
  return image.transform(image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=FILL)


def _rotate(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
  resample = (BILINEAR, BICUBIC)[int(rng.integers(2))]
  return image.rotate(_signed(30 * level, rng), resample, fillcolor=FILL)


def _shear_x(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
  return _affine(image, (1, _signed(0.3 * level, rng), 0, 0, 1, 0), rng)


def _shear_y(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
  return _affine(image, (1, 0, 0, _signed(0.3 * level, rng), 1, 0), rng)


def _translate_x(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
  return _affine(image, (1, 0, _signed(0.45 * level, rng) * image.size[0], 0, 1, 0), rng)


def _translate_y(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
  return _affine(image, (1, 0, 0, 0, 1, _signed(0.45 * level, rng) * image.size[1]), rng)


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Callable:
  """Factor 1 at level 0, away from it in either direction as the level grows."""

  def change(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return kind(image).enhance(max(0.1, 1 + _signed(0.9 * level, rng)))

  return change


def _posterize(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
  bits = 4 - int(4 * level)
  return ImageOps.posterize(image, bits) if bits > 0 else Image.new('RGB', image.size)


def _solarize(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
  return ImageOps.solarize(image, 256 - int(256 * level))


def _solarize_add(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
  added = min(128, int(110 * level))
  return image.point([min(255, value + added) if value < 128 else value for value in range(256)] * 3)


OPERATIONS: dict[str, Callable[[Image.Image, float, np.random.Generator], Image.Image]] = {
  'auto_contrast': lambda image, level, rng: ImageOps.autocontrast(image),
  'equalize': lambda image, level, rng: ImageOps.equalize(image),
  'invert': lambda image, level, rng: ImageOps.invert(image),
  'rotate': _rotate,
  'posterize': _posterize,
  'solarize': _solarize,
  'solarize_add': _solarize_add,
  'color': _enhance(ImageEnhance.Color),
  'contrast': _enhance(ImageEnhance.Contrast),
  'brightness': _enhance(ImageEnhance.Brightness),
  'sharpness': _enhance(ImageEnhance.Sharpness),
  'shear_x': _shear_x,
  'shear_y': _shear_y,
  'translate_x': _translate_x,
  'translate_y': _translate_y,
}
"""name -> (RGB image, level in [0, 1], Generator) -> RGB image."""
