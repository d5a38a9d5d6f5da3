"""GridMask (Chen et al., 2020) as the fusion recipes use it: a grid of rectangles is cut out of all pictures."""

import jax
import jax.numpy as jnp

PROBABILITY = 0.7


def grid_mask(key: jax.Array, images: jax.Array, probability: float = PROBABILITY) -> jax.Array:
  """Zeroes, with a chance, every pixel that lies in neither a horizontal nor a vertical stripe of a random grid.

  The grid's period is drawn from 2 to height - 1, stripes are half of it wide, and both offsets are drawn; one grid
  serves all pictures.

  Source: GridMask (Chen et al., 2020), which the authors' recipes use.

  Args:
    key: randomness.
    images: [..., height, width, channels], normalised: what is cut out becomes the mean colour.
    probability: of cutting anything.

  Raises:
    ValueError: for pictures of fewer than 3 rows, in which no period fits.
  """
  height, width = images.shape[-3:-1]
  if height < 3:
    raise ValueError(f'A grid needs pictures of at least 3 rows, not {height}.')
  for_chance, for_period, for_rows, for_columns = jax.random.split(key, 4)
  period = jax.random.randint(for_period, (), 2, height)
  stripe = jnp.clip((period + 1) // 2, 1, period - 1)

  def stripes(key, count):
    return (jnp.arange(count) + jax.random.randint(key, (), 0, period)) % period < stripe

  kept = stripes(for_rows, height)[:, None] | stripes(for_columns, width)[None]
  kept |= jax.random.uniform(for_chance) >= probability
  return jnp.where(kept[:, :, None], images, 0)
