"""The two references to the support examples.

The paper's text was not at hand: shapes follow its abstract, every detail here is a
reconstruction. At the start both are the identity, so that the model begins as Mask2Former.
"""

from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpapers.layers.norm import LayerNorm
from jaxpapers.ops import resize

_XAVIER = nn.initializers.xavier_uniform()
_ZEROS = nn.initializers.zeros


def cosine(a: jax.Array, b: jax.Array) -> jax.Array:
  """Cosine over the last axis; norms are at least 1e-6."""

  def norm(x):
    return jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1), 1e-12))

  return jnp.sum(a * b, axis=-1) / (norm(a) * norm(b))


def per_class(values: jax.Array, classes: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
  """Mean over the examples of each class.

  Args:
    values: [examples, width].
    classes: [examples] int; negative ones are padding.
    count: number of classes.

  Returns:
    Means [count, width], zero for a class without example, and whether it has one, [count] bool.
  """
  member = jax.nn.one_hot(classes, count, axis=0, dtype=values.dtype)
  number = member.sum(axis=1)
  return member @ values / jnp.maximum(number, 1.0)[:, None], number > 0


def dynamic_weights(features: jax.Array, masks: jax.Array, tau: float = 0.2, mode: str = 'dynamic') -> jax.Array:
  """How much each pixel counts for the centre of its object, [examples, h, w], with sum one.

  Args:
    features: [examples, h, w, width].
    masks: [examples, h, w] share of each cell that the object covers.
    tau: temperature of the affinity to the masked mean.
    mode: 'dynamic', or 'mean': the mask alone (the limit of large tau).
  """
  chex.assert_equal_shape_prefix([features, masks], 3)
  if mode not in ('dynamic', 'mean'):
    raise ValueError(f"mode is 'dynamic' or 'mean', not {mode!r}.")
  weights = masks
  if mode == 'dynamic':
    mean = jnp.einsum('nhw,nhwc->nc', masks, features) / (masks.sum(axis=(1, 2)) + 1e-6)[:, None]
    weights = masks * jnp.exp((cosine(features, mean[:, None, None]) - 1.0) / tau)
  return weights / (weights.sum(axis=(1, 2), keepdims=True) + 1e-6)


def support_centers(features: jax.Array, masks: jax.Array, tau: float = 0.2, mode: str = 'dynamic') -> jax.Array:
  """One centre per example, [examples, width]. Source: the paper's first reference, reconstructed from its abstract.

  Args:
    features: [examples, h, w, width].
    masks: [examples, height, width], 0 to 1, of a multiple of the size: averaged down to it.
    tau: see `dynamic_weights`.
    mode: see `dynamic_weights`.
  """
  small = resize.adaptive_mean(masks[..., None], features.shape[1:3])[..., 0]
  return jnp.einsum('nhw,nhwc->nc', dynamic_weights(features, small, tau, mode), features)


def _heads(x, heads):
  return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


class FeatureReference(nn.Module):
  """Pixels of the query image look at the centres of all classes at once, or at nothing.

  Source: the paper's first reference, reconstructed from its abstract.

  Attributes:
    heads: of attention.
    mode: 'add', or 'sigmoid': the attended value scales the pixel instead.
  """

  heads: int = 8
  mode: str = 'add'

  @nn.compact
  def __call__(self, tokens: jax.Array, centers: jax.Array, present: jax.Array) -> jax.Array:
    """tokens [batch, tokens, width], centers [classes, width], present [classes] bool -> tokens."""
    width = tokens.shape[-1]
    chex.assert_shape(present, (centers.shape[0],))
    q = nn.Dense(width, kernel_init=_XAVIER, name='q')(LayerNorm(epsilon=1e-5, name='norm_q')(tokens))
    known = LayerNorm(epsilon=1e-5, name='norm_k')(centers)
    k = nn.Dense(width, kernel_init=_XAVIER, name='k')(known)
    v = nn.Dense(width, kernel_init=_XAVIER, name='v')(known)
    null = self.param('null_key', nn.initializers.normal(0.02), (1, width))
    k = jnp.concatenate([k, null.astype(k.dtype)])
    v = jnp.concatenate([v, jnp.zeros((1, width), v.dtype)])
    q, k, v = _heads(q, self.heads), _heads(k, self.heads), _heads(v, self.heads)
    scores = jnp.einsum('bqhd,khd->bhqk', q, k) / jnp.sqrt(width // self.heads).astype(q.dtype)
    scores = jnp.where(jnp.append(present, True), scores, -jnp.inf)
    mixed = jnp.einsum('bhqk,khd->bqhd', jax.nn.softmax(scores, axis=-1), v).reshape(tokens.shape)
    update = nn.Dense(width, kernel_init=_ZEROS, bias_init=_ZEROS, name='o')(mixed)
    return tokens + update if self.mode == 'add' else tokens * (1.0 + update)


class SupportTokens(NamedTuple):
  """Object queries of the support examples. Source: the paper's second reference, reconstructed from its abstract.

  Attributes:
    queries: [examples, k, width], the best first.
    classes: [examples] int32; negative ones are padding.
  """

  queries: jax.Array
  classes: jax.Array


def mask_dice(logits: jax.Array, masks: jax.Array) -> jax.Array:
  """Dice of predicted masks [examples, queries, h, w] (logits) with the object's [examples, h, w], in (0, 1]."""
  s = jax.nn.sigmoid(logits)
  together = jnp.einsum('nqhw,nhw->nq', s, masks)
  return (2.0 * together + 1.0) / (s.sum(axis=(2, 3)) + masks.sum(axis=(1, 2))[:, None] + 1.0)


def choose_queries(
  queries: jax.Array, dice: jax.Array, k: int = 2, class_probability: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
  """The k queries that outline the support object best.

  Args:
    queries: [examples, queries, width].
    dice: [examples, queries], see `mask_dice`.
    k: how many.
    class_probability: [examples, queries] of the example's class; multiplies the dice.

  Returns:
    [examples, k, width] and their indices [examples, k]; no gradient flows through the choice.
  """
  rank = dice if class_probability is None else dice * class_probability
  _, index = jax.lax.top_k(jax.lax.stop_gradient(rank), k)
  return jnp.take_along_axis(queries, index[..., None], axis=1), index


class QueryReference(nn.Module):
  """Object queries of the image look at those of the support examples.

  Every class counts alike, however many examples it has: repeating the support set changes nothing.

  Source: the paper's second reference, reconstructed from its abstract.

  Attributes:
    heads: of attention.
    hidden: of the feed-forward layer.
  """

  heads: int = 8
  hidden: int = 2048

  @nn.compact
  def __call__(self, queries: jax.Array, support: SupportTokens) -> jax.Array:
    """queries [batch, queries, width] -> queries; examples of a negative class are not seen.

    Sows `attention` [batch, heads, queries, tokens] into the collection 'intermediates'.
    """
    width = queries.shape[-1]
    tokens, per_example = support.queries.reshape(-1, width), support.queries.shape[1]
    seen = support.classes >= 0
    same = (support.classes[:, None] == support.classes[None]) & seen
    number = jnp.maximum(jnp.sum(same, axis=1) * per_example, 1).astype(queries.dtype)
    bias = jnp.repeat(jnp.where(seen, -jnp.log(number), -jnp.inf), per_example)
    # Without any example softmax would see only -inf.
    bias = jnp.where(jnp.any(seen), bias, 0.0)
    q = nn.Dense(width, kernel_init=_XAVIER, name='q')(LayerNorm(epsilon=1e-5, name='norm_q')(queries))
    known = LayerNorm(epsilon=1e-5, name='norm_s')(tokens)
    k = nn.Dense(width, kernel_init=_XAVIER, name='k')(known)
    v = jnp.where(jnp.any(seen), nn.Dense(width, kernel_init=_XAVIER, name='v')(known), 0.0)
    q, k, v = _heads(q, self.heads), _heads(k, self.heads), _heads(v, self.heads)
    scores = jnp.einsum('bqhd,khd->bhqk', q, k) / jnp.sqrt(width // self.heads).astype(q.dtype) + bias
    attention = jax.nn.softmax(scores, axis=-1)
    self.sow('intermediates', 'attention', attention)
    mixed = jnp.einsum('bhqk,khd->bqhd', attention, v).reshape(queries.shape)
    queries = queries + nn.Dense(width, kernel_init=_ZEROS, bias_init=_ZEROS, name='o')(mixed)
    y = nn.relu(
      nn.Dense(self.hidden, kernel_init=_XAVIER, name='ffn1')(LayerNorm(epsilon=1e-5, name='norm_f')(queries))
    )
    return queries + nn.Dense(width, kernel_init=_ZEROS, bias_init=_ZEROS, name='ffn2')(y)
