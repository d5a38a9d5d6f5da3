"""Photometric distortion of SSD (Liu et al., 2016): brightness, contrast, saturation, hue."""

import numpy as np
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv


def photometric_distortion(
  image: np.ndarray,
  rng: np.random.Generator,
  brightness: float = 32.0,
  contrast: tuple[float, float] = (0.5, 1.5),
  saturation: tuple[float, float] = (0.5, 1.5),
  hue: float = 18.0,
) -> np.ndarray:
  """Changes colours; each of the four changes happens with probability 1/2, contrast first or last at random.

  Args:
    image: uint8 [height, width, 3].
    rng: source of randomness.
    brightness: largest addition, in 0..255.
    contrast: bounds of the factor.
    saturation: bounds of the factor.
    hue: largest turn of the colour circle, in degrees.

  Returns:
    uint8 [height, width, 3].
  """
  x = image.astype(np.float32)
  if rng.random() < 0.5:
    x += rng.uniform(-brightness, brightness)
  contrast_first = rng.random() < 0.5
  factor = rng.uniform(*contrast) if rng.random() < 0.5 else 1.0
  if contrast_first:
    x *= factor
  saturate = rng.uniform(*saturation) if rng.random() < 0.5 else 1.0
  turn = rng.uniform(-hue, hue) if rng.random() < 0.5 else 0.0
  if saturate != 1.0 or turn != 0.0:
    hsv = rgb_to_hsv(np.clip(x / 255, 0, 1))
    hsv[..., 1] = np.clip(hsv[..., 1] * saturate, 0, 1)
    hsv[..., 0] = (hsv[..., 0] + turn / 360) % 1
    x = hsv_to_rgb(hsv) * 255
  if not contrast_first:
    x = x * factor
  return np.clip(np.rint(x), 0, 255).astype(np.uint8)
