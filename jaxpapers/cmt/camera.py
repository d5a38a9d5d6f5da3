"""Camera branch: surround images to one map of features per camera."""

import flax.linen as nn
import jax
import jax.numpy as jnp

MEAN = (103.530, 116.280, 123.675)  # blue, green, red
STD = (57.375, 57.120, 58.395)
MULTIPLE = 32


def normalise(images: jax.Array) -> jax.Array:
  """BGR images [..., 3] in 0..255 to the backbone's input, float32. Source: the authors' configs."""
  return (images.astype(jnp.float32) - jnp.asarray(MEAN)) / jnp.asarray(STD)


class CameraBranch(nn.Module):
  """Backbone and neck, shared by the cameras; only the finest level of the neck leaves it.

  Attributes:
    backbone: (images, train) -> maps, the two coarsest of which go to the neck. Its batch norm always uses running
      statistics, in training too; scale and bias are trained.
    neck: maps -> maps, finest first.
    multiple: what the sides of the images must be divisible by.
    dtype: of the computation.
  """

  backbone: nn.Module
  neck: nn.Module
  multiple: int = MULTIPLE
  dtype: jnp.dtype = jnp.float32

  def __call__(self, images: jax.Array) -> jax.Array:
    """Normalised images [batch, cameras, height, width, 3] -> [batch, cameras, height', width', channels], float32.

    Raises:
      ValueError: for another rank, other than three channels, or sides that are no multiples of `multiple`.
    """
    if images.ndim != 5 or images.shape[-1] != 3:
      raise ValueError(f'images must be [batch, cameras, height, width, 3], not {images.shape}.')
    batch, cameras, height, width, _ = images.shape
    if height % self.multiple or width % self.multiple:
      raise ValueError(
        f'images are {height} x {width} pixels: pad both sides to multiples of {self.multiple} before the network.'
      )
    x = images.reshape(-1, height, width, 3).astype(self.dtype)
    features = self.neck(self.backbone(x, False)[-2:])[0]
    return features.reshape(batch, cameras, *features.shape[1:]).astype(jnp.float32)
