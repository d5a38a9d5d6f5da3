"""Multi-head attention whose memory does not grow with queries times keys.

The softmax over the keys is taken block by block with a running maximum (Milakov and Gimelshein, arXiv 1805.02867), and
its derivative recomputes the blocks (Dao et al., arXiv 2205.14135).
"""

import functools

import chex
import jax
import jax.numpy as jnp

_LOWEST = -1e30  # of masked scores: finite, so that a query without any key gives 0 and not NaN


def attention(
  q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None = None, *, block: int | None = 512
) -> jax.Array:
  """softmax(q k^T / sqrt(depth)) v; a query whose keys are all masked gets 0.

  Args:
    q: [batch, queries, heads, depth].
    k: [batch, keys, heads, depth].
    v: like k.
    mask: [batch, keys] bool, True where a key may be seen; None is everywhere.
    block: keys at a time; with no more keys than that, or None, the scores are written out whole. Same values.

  Returns:
    Like q. Scores and sums are float32 whatever the dtype.
  """
  chex.assert_rank([q, k, v], 4)
  chex.assert_equal_shape([k, v])
  chex.assert_equal_shape_suffix([q, k], 2)
  batch, keys = k.shape[:2]
  if mask is not None:
    chex.assert_shape(mask, (batch, keys))
  q = q * (q.shape[-1] ** -0.5)
  if block is None or keys <= block:
    return _whole(q, k, v, mask)
  count = -(-keys // block)
  if mask is None and count * block > keys:
    mask = jnp.ones((batch, keys), bool)

  def split(x):
    x = jnp.pad(x, ((0, 0), (0, count * block - keys)) + ((0, 0),) * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(batch, count, block, *x.shape[2:]), 1, 0)

  return _blockwise(q, split(k), split(v), None if mask is None else split(mask))


def attention_weights(q: jax.Array, k: jax.Array, mask: jax.Array | None = None) -> jax.Array:
  """What `attention` mixes values with, mean over heads: [batch, queries, keys] float32; arguments as there."""
  scores = _scores(q * (q.shape[-1] ** -0.5), k, mask)
  p = _masked(jax.nn.softmax(scores, axis=2), mask)
  return jnp.swapaxes(p.mean(axis=1), 1, 2)


def _scores(q, k, mask):
  """[batch, heads, keys, queries]: sums over keys then run along rows, which compilers for CPUs do fast."""
  scores = jnp.einsum('bkhd,bqhd->bhkq', k, q, preferred_element_type=jnp.float32)
  return scores if mask is None else jnp.where(mask[:, None, :, None], scores, _LOWEST)


def _masked(p, mask):
  return p if mask is None else jnp.where(mask[:, None, :, None], p, 0.0)


def _mix(p, v):
  return jnp.einsum('bhkq,bkhd->bqhd', p.astype(v.dtype), v, preferred_element_type=jnp.float32)


def _whole(q, k, v, mask):
  scores = _scores(q, k, mask)
  p = _masked(jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=2, keepdims=True))), mask)
  total = jnp.moveaxis(p.sum(axis=2), 1, 2)[..., None]
  return (_mix(p, v) / jnp.where(total == 0, 1.0, total)).astype(q.dtype)


@jax.custom_vjp
def _blockwise(q, k, v, mask):
  return _blockwise_forward(q, k, v, mask)[0]


def _blockwise_forward(q, k, v, mask):
  batch, queries, heads, _ = q.shape

  def body(carry, blocks):
    highest, total, mixed = carry
    k, v, mask = blocks
    scores = _scores(q, k, mask)
    new = jnp.maximum(highest, scores.max(axis=2))
    p = _masked(jnp.exp(scores - new[:, :, None]), mask)
    shrink = jnp.exp(highest - new)
    mixed = mixed * jnp.moveaxis(shrink, 1, 2)[..., None] + _mix(p, v)
    return (new, total * shrink + p.sum(axis=2), mixed), None

  start = (
    jnp.full((batch, heads, queries), _LOWEST, jnp.float32),
    jnp.zeros((batch, heads, queries), jnp.float32),
    jnp.zeros(q.shape, jnp.float32),
  )
  (highest, total, mixed), _ = jax.lax.scan(body, start, (k, v, mask))
  total = jnp.where(total == 0, 1.0, total)
  mixed = (mixed / jnp.moveaxis(total, 1, 2)[..., None]).astype(q.dtype)
  return mixed, (q, k, v, mask, highest + jnp.log(total), mixed)


def _blockwise_backward(residuals, gradient):
  q, k, v, mask, log_total, mixed = residuals
  inner = jnp.moveaxis(jnp.sum(gradient.astype(jnp.float32) * mixed, axis=-1), 1, 2)
  contract = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

  def body(dq, blocks):
    k, v, mask = blocks
    p = _masked(jnp.exp(_scores(q, k, mask) - log_total[:, :, None]), mask)
    dp = contract('bkhd,bqhd->bhkq', v, gradient)
    ds = (p * (dp - inner[:, :, None])).astype(q.dtype)
    dk = contract('bhkq,bqhd->bkhd', ds, q)
    dv = contract('bhkq,bqhd->bkhd', p.astype(gradient.dtype), gradient)
    return dq + contract('bhkq,bkhd->bqhd', ds, k), (dk.astype(k.dtype), dv.astype(v.dtype))

  dq, (dk, dv) = jax.lax.scan(body, jnp.zeros(q.shape, jnp.float32), (k, v, mask))
  return dq.astype(q.dtype), dk, dv, None


_blockwise.defvjp(_blockwise_forward, _blockwise_backward)
