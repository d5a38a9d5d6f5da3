"""Classification heads: linear, cosine, and cosine to rows made from support examples."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpapers.layers.norm import LayerNorm

INACTIVE = -1e9
"""Logit of a class that takes no part in an episode."""


def safe_norm(x: jax.Array) -> jax.Array:
  """Euclidean norm over the last axis, kept; at a zero row its gradient is zero instead of NaN."""
  squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  nonzero = squares > 0.0
  return jnp.where(nonzero, jnp.sqrt(jnp.where(nonzero, squares, 1.0)), 0.0)


def cosine_logits(x: jax.Array, rows: jax.Array, scale: jax.Array | float) -> jax.Array:
  """scale * cosine of every x [..., width] to every row [classes, width]: [..., classes].

  Source: TFA (Wang et al., ICML 2020).
  """
  chex.assert_equal(x.shape[-1], rows.shape[-1])
  return scale * (x / (safe_norm(x) + 1e-5)) @ (rows / (safe_norm(rows) + 1e-5)).T


class LinearHead(nn.Module):
  """A linear map with bias; the last class is "no object". Source: Mask2Former's code.

  Attributes:
    classes: without "no object".
  """

  classes: int

  @nn.compact
  def __call__(self, x: jax.Array, active: jax.Array | None = None) -> jax.Array:
    """[..., width] -> [..., classes + 1]; classes where `active` [classes] is False get INACTIVE."""
    logits = nn.Dense(self.classes + 1, name='class_embed')(x)
    if active is None:
      return logits
    return jnp.where(jnp.append(active, True), logits, INACTIVE)


class CosineHead(nn.Module):
  """Cosine similarity to one row per class. Source: TFA (Wang et al., ICML 2020).

  Attributes:
    classes: without "no object".
    scale: of the similarity, at the start if it learns.
    learn_scale: makes the scale a parameter.
  """

  classes: int
  scale: float = 20.0
  learn_scale: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., width] -> [..., classes + 1]."""
    rows = self.param('weight', nn.initializers.normal(0.01), (self.classes + 1, x.shape[-1]))
    return cosine_logits(x, rows, _scale(self))


class SupportHead(nn.Module):
  """Cosine similarity to rows that the support examples move: this library's own extension.

  The row of a class is e_c + A LN(mean of its support queries) + a where the class has support, else e_c. A class whose
  free row e_c is zero is then recognised from its examples alone.

  Attributes:
    classes: without "no object".
    width: of the queries.
    scale: of the similarity, at the start if it learns.
    learn_scale: makes the scale a parameter.
    start: A is this multiple of the identity at the start.
  """

  classes: int
  width: int
  scale: float = 20.0
  learn_scale: bool = False
  start: float = 0.3

  def setup(self):
    """Parameters."""
    self.weight = self.param('weight', nn.initializers.normal(0.01), (self.classes + 1, self.width))
    self.kernel = self.param('kernel', lambda key, shape: self.start * jnp.eye(shape[0]), (self.width, self.width))
    self.bias = self.param('bias', nn.initializers.zeros, (self.width,))
    self.support_norm = LayerNorm(epsilon=1e-5)
    self.factor = _scale(self)

  def __call__(
    self, x: jax.Array, support: jax.Array, present: jax.Array, keep_row: jax.Array | None = None
  ) -> jax.Array:
    """Logits.

    Args:
      x: [..., width], after the decoder's final norm.
      support: [classes, width], mean over the examples of a class of their best query, before any norm.
      present: [classes] bool, the class has support.
      keep_row: [classes] 0 or 1; a 0 drops the free row, so that the class must be known by its support.

    Returns:
      [..., classes + 1].
    """
    return cosine_logits(x, self.rows(support, present, keep_row), self.factor)

  def rows(self, support: jax.Array, present: jax.Array, keep_row: jax.Array | None = None) -> jax.Array:
    """The rows, [classes + 1, width]; arguments as for a call."""
    chex.assert_shape(support, (self.classes, self.width))
    free = self.weight
    if keep_row is not None:
      free = free * jnp.append(keep_row, 1.0)[:, None]
    moved = jnp.where(present[:, None], self.support_norm(support) @ self.kernel + self.bias, 0.0)
    return free + jnp.concatenate([moved, jnp.zeros((1, self.width), moved.dtype)])


def _scale(head):
  if not head.learn_scale:
    return head.scale
  return head.param('scale', nn.initializers.constant(head.scale), ())
