"""Values of a panorama between its pixels, correct across the +-180 degree seam and over the poles."""

import chex
import jax
import jax.numpy as jnp

from jaxpapers.vr_quality.sphere import lonlat_to_pixel

METHODS = ('bilinear', 'catmull_rom')
POLES = ('cross', 'clamp')


def sample_erp(
  image: jax.Array, lon: jax.Array, lat: jax.Array, method: str = 'bilinear', poles: str = 'cross'
) -> jax.Array:
  """Interpolates a panorama at any directions; differentiable in image, longitude and latitude.

  Source: this library's own; Catmull-Rom where cubic.

  Args:
    image: [height, width, channels], floating, or integers, which are converted once they are picked; width even.
    lon: [...], radians, any number of turns.
    lat: [...], radians.
    method: 'bilinear' (4 pixels) or 'catmull_rom' (16 pixels, sharper; may overshoot).
    poles: 'cross': a row r < 0 or >= height is read on the other side of the pole, half a turn away. 'clamp' repeats
      the first and last row, as the authors' rotation does.

  Returns:
    [..., channels], of the floating type of image and angles.

  Raises:
    ValueError: for another method or treatment of the poles.
  """
  chex.assert_rank(image, 3)
  if method not in METHODS or poles not in POLES:
    raise ValueError(f'method is one of {METHODS} and poles one of {POLES}, not {method!r} and {poles!r}.')
  height, width, channels = image.shape
  x, y = lonlat_to_pixel(lon, lat, height, width)
  column, row = jnp.floor(jax.lax.stop_gradient(x)), jnp.floor(jax.lax.stop_gradient(y))
  weights = _linear if method == 'bilinear' else _catmull_rom
  offsets, across = weights(x - column)
  _, down = weights(y - row)
  column, row = column.astype(jnp.int32), row.astype(jnp.int32)
  flat = image.reshape(height * width, channels)
  total = 0
  for j, offset_y in enumerate(offsets):
    r = row + offset_y
    if poles == 'clamp':
      r, shift = jnp.clip(r, 0, height - 1), 0
    else:
      beyond = (r < 0) | (r >= height)
      r = jnp.where(r < 0, -1 - r, jnp.where(r >= height, 2 * height - 1 - r, r))
      shift = jnp.where(beyond, width // 2, 0)
    for i, offset_x in enumerate(offsets):
      index = r * width + (column + offset_x + shift) % width
      total += (down[j] * across[i])[..., None] * flat.at[index].get(mode='clip')
  return total


def _linear(t):
  return (0, 1), (1 - t, t)


def _catmull_rom(t):
  weights = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3)
  return (-1, 0, 1, 2), tuple(w / 2 for w in weights)
