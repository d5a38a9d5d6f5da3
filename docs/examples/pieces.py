"""For someone who imports a piece: public functions under jit, vmap and grad, without the engine.

python docs/examples/pieces.py
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers import emo, predictive_exit, reliant, xdeepint


def main() -> None:
  """One piece of four papers."""
  # EMO: strided windows are a permutation of the map, image by image.
  image = jax.random.normal(jax.random.key(0), (2, 14, 14, 8))
  tokens = jax.jit(emo.partition, static_argnums=(1,))(image, (7, 7))
  print('windows', tokens.shape)

  # RELIANT: the gap of many students at once, and its gradient.
  contrast = reliant.group_contrast(np.array([0, 0, 0, 1, 1]), np.ones(5, bool))
  students = jax.nn.softmax(jax.random.normal(jax.random.key(1), (6, 5, 2)))
  gaps, slopes = jax.jit(jax.vmap(jax.value_and_grad(reliant.gap), in_axes=(0, None)))(students, contrast)
  print('gaps', np.round(gaps, 4), 'gradients', slopes.shape)

  # Predictive Exit: one table of logits, many thresholds at once.
  logits = jax.random.normal(jax.random.key(2), (100, 7, 10))
  walk = jax.vmap(lambda beta: predictive_exit.official_walk(logits, jnp.ones(6), beta, 1).exit.mean())
  print('mean exit', walk(jnp.array([0.5, 1.5, 2.5])))

  # xDeepInt: sub-spaces split and join again.
  x = jax.random.normal(jax.random.key(3), (4, 3, 8))
  z = xdeepint.split_sub_spaces(x, 2)
  print('sub-spaces', z.shape, bool(jnp.array_equal(xdeepint.combine_sub_spaces(z, 2), x)))


if __name__ == '__main__':
  main()
