"""Denoising auto-encoder: inputs or distilled images are replaced by what clean images look like."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

WIDTHS = (256, 128, 64, 128, 256)


class DenoisingAutoencoder(nn.Module):
  """A fully connected auto-encoder of pixels in [0, 1]: [batch, height, width, channels] -> the same shape."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Pixels near `x` that look like the training images."""
    chex.assert_rank(x, 4)
    y = x.reshape(x.shape[0], -1)
    for width in WIDTHS:
      y = nn.relu(nn.Dense(width)(y))
    return nn.sigmoid(nn.Dense(x[0].size)(y)).reshape(x.shape)


def fit(
  pixels: jax.Array,
  key: jax.Array,
  *,
  steps: int = 600,
  batch_size: int = 256,
  noise: float = 0.1,
  learning_rate: float = 1e-3,
) -> dict:
  """Variables of a `DenoisingAutoencoder` trained by Adam from noisy to clean pixels with the squared error.

  Args:
    pixels: clean images [N, height, width, channels] in [0, 1].
    key: random key.
    steps: of training.
    batch_size: images per step, drawn with replacement.
    noise: standard deviation of the normal noise; the noisy pixels are clipped to [0, 1].
    learning_rate: of Adam.
  """
  pixels = jnp.asarray(pixels)
  chex.assert_rank(pixels, 4)
  model, optimizer = DenoisingAutoencoder(), optax.adam(learning_rate)
  init_key, run_key = jax.random.split(key)
  variables = model.init(init_key, pixels[:1])

  def step(carry, key):
    variables, state = carry
    rows_key, noise_key = jax.random.split(key)
    clean = pixels[jax.random.randint(rows_key, (min(batch_size, pixels.shape[0]),), 0, pixels.shape[0])]
    noisy = jnp.clip(clean + noise * jax.random.normal(noise_key, clean.shape), 0.0, 1.0)
    grads = jax.grad(lambda v: jnp.mean(jnp.square(model.apply(v, noisy) - clean)))(variables)
    updates, state = optimizer.update(grads, state)
    return (optax.apply_updates(variables, updates), state), None

  return jax.lax.scan(step, (variables, optimizer.init(variables)), jax.random.split(run_key, steps))[0][0]


def purify(variables: dict, pixels: jax.Array) -> jax.Array:
  """Denoised pixels; values beyond [0, 1], which no image file holds, are clipped first."""
  return DenoisingAutoencoder().apply(variables, jnp.clip(pixels, 0.0, 1.0))
