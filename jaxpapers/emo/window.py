"""Window partitions of a map, and self-attention inside the windows (paper section 2.3)."""

import jax
import jax.numpy as jnp

PARTITIONS = ('grid', 'block')


def pad_to_windows(x: jax.Array, window: tuple[int, int]) -> jax.Array:
  """Zeros at the bottom and at the right, up to a multiple of the window: [batch, height, width, channels].

  Source: the authors' code.
  """
  below, right = -x.shape[1] % window[0], -x.shape[2] % window[1]
  return jnp.pad(x, ((0, 0), (0, below), (0, right), (0, 0))) if below or right else x


def partition(x: jax.Array, window: tuple[int, int], kind: str = 'grid') -> jax.Array:
  """Splits a map into windows.

  'grid' windows are strided: with n1 x n2 windows, window (a, c) holds the pixels (i * n1 + a, j * n2 + c), so that
  each one samples the whole map; attention over them commutes with every cyclic shift of the map. 'block' windows are
  contiguous.

  Source: windowed attention of section 2.3, 'grid' as in the authors' code; 'block' is an addition.

  Args:
    x: [batch, height, width, channels]; the window divides height and width.
    window: pixels per window in height and width.
    kind: 'grid' or 'block'.

  Returns:
    [batch, windows, tokens, channels], tokens of a window in row-major order.
  """
  batch, height, width, channels = x.shape
  (rows, columns), n1, n2 = window, height // window[0], width // window[1]
  if kind == 'grid':
    x = x.reshape(batch, rows, n1, columns, n2, channels).transpose(0, 2, 4, 1, 3, 5)
  else:
    x = x.reshape(batch, n1, rows, n2, columns, channels).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(batch, n1 * n2, rows * columns, channels)


def merge(tokens: jax.Array, window: tuple[int, int], size: tuple[int, int], kind: str = 'grid') -> jax.Array:
  """Inverse of `partition`: [batch, windows, tokens, channels] -> [batch, *size, channels].

  Source: the authors' code.
  """
  batch, channels = tokens.shape[0], tokens.shape[-1]
  (rows, columns), n1, n2 = window, size[0] // window[0], size[1] // window[1]
  x = tokens.reshape(batch, n1, n2, rows, columns, channels)
  x = x.transpose(0, 3, 1, 4, 2, 5) if kind == 'grid' else x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(batch, *size, channels)


def attention_weights(q: jax.Array, k: jax.Array, heads: int) -> jax.Array:
  """softmax(q k^T / sqrt(head width)) over keys, per window and head, in float32.

  No mask and no position: zeros that padded the map take part, as in the released models.

  Source: multi-head self-attention of section 2.3.

  Args:
    q: [batch, windows, tokens, channels]; each head owns channels / heads consecutive channels.
    k: of the same shape.
    heads: number of heads.

  Returns:
    [batch, windows, heads, tokens, tokens] float32, rows summing to 1.
  """
  shape = (*q.shape[:-1], heads, q.shape[-1] // heads)
  scale = shape[-1] ** -0.5
  logits = jnp.einsum('bwihd,bwjhd->bwhij', q.reshape(shape) * scale, k.reshape(shape))
  return jax.nn.softmax(logits.astype(jnp.float32), axis=-1)


def attend(weights: jax.Array, values: jax.Array) -> jax.Array:
  """Weighted sums of values, head by head. Source: the attention of section 2.3, which widens the values.

  Args:
    weights: [batch, windows, heads, tokens, tokens].
    values: [batch, windows, tokens, channels]; each head owns channels / heads consecutive channels.

  Returns:
    [batch, windows, tokens, channels], dtype of values.
  """
  heads = weights.shape[2]
  split = values.reshape(*values.shape[:-1], heads, values.shape[-1] // heads)
  return jnp.einsum('bwhij,bwjhd->bwihd', weights.astype(values.dtype), split).reshape(values.shape)
