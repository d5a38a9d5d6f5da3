"""Attention over grouped heads, and rotary positions."""

import jax
import jax.numpy as jnp

# Finite: a row whose keys are all masked gives an even average instead of NaN.
MASKED = -1e30

# Queries that causal attention takes at once, and the most blocks of them: each is compiled by itself.
_BLOCK, _BLOCKS = 128, 8


def rotate(x: jax.Array, positions: jax.Array, theta: float, dimensions: int) -> jax.Array:
  """Rotary embedding in the rotate-half layout: pairs are (i, i + dimensions / 2), frequency theta^(-2i/dimensions).

  Args:
    x: [batch, time, heads, head].
    positions: [batch, time] int32.
    theta: base of the frequencies.
    dimensions: how many of a head's first dimensions turn; the others stay.
  """
  half = dimensions // 2
  frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle = positions[..., None, None].astype(jnp.float32) * frequency
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  first, second, rest = jnp.split(x.astype(jnp.float32), [half, dimensions], axis=-1)
  turned = [first * cos - second * sin, second * cos + first * sin, rest]
  return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, drop=lambda weights: weights) -> jax.Array:
  """Softmax attention; query head h reads key-value head h // (heads / kv_heads).

  Args:
    q: [batch, time, heads, head].
    k: [batch, kv_heads, length, head].
    v: [batch, kv_heads, length, head].
    mask: [batch, time, length] bool, True where a query may look.
    drop: applied to the weights.

  Returns:
    [batch, time, heads * head].
  """
  batch, time, heads, size = q.shape
  q = q.reshape(batch, time, k.shape[1], -1, size)
  scores = jnp.einsum('btkgh,bksh->bkgts', q, k, preferred_element_type=jnp.float32) * size**-0.5
  weights = drop(jax.nn.softmax(jnp.where(mask[:, None, None], scores, MASKED), axis=-1)).astype(v.dtype)
  return jnp.einsum('bkgts,bksh->btkgh', weights, v).reshape(batch, time, heads * size)


def causal_attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
  """As `attention`, of tokens to themselves and earlier ones alone: blocks of queries leave all later keys out.

  On CPU the gradient for 464 tokens takes less than half of the time.

  Args:
    q: [batch, time, heads, head].
    k: [batch, kv_heads, time, head].
    v: [batch, kv_heads, time, head].
    mask: [batch, time, time] bool, False above the diagonal.

  Returns:
    [batch, time, heads * head].
  """
  time = q.shape[1]
  size = max(_BLOCK, -(-time // _BLOCKS))
  ends = [min(start + size, time) for start in range(0, time, size)]
  parts = [
    attention(q[:, start:end], k[:, :, :end], v[:, :, :end], mask[:, start:end, :end])
    for start, end in zip([0, *ends], ends, strict=False)
  ]
  return jnp.concatenate(parts, axis=1)
