"""Where the queries of a trained model look: the weights of its cross-attention, layer by layer."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpapers.cmt.decoder import Attention, Decoder, DecoderLayer
from jaxpapers.cmt.model import CMT


def cross_attention(model: CMT, variables: Mapping[str, Any], arguments: Mapping[str, jax.Array]) -> jax.Array:
  """Weights of every layer's cross-attention over the tokens of both sensors.

  The decoder runs its layers in one compiled loop that keeps no weights, so they are run once more, one by one.

  Args:
    model: the network.
    variables: its variables.
    arguments: keyword arguments of its call, without denoising.

  Returns:
    [layers, batch, heads, queries, tokens] float32, LiDAR tokens first (row by row), then those of each camera (row by
    row); sums over the tokens are 1 unless none may be seen.
  """
  given: dict[str, Any] = {}

  def keep_call(call, args, kwargs, context):
    if isinstance(context.module, Decoder) and context.method_name == '__call__':
      given.update(decoder=context.module.clone(parent=None, name=None), args=args, kwargs=kwargs)
    return call(*args, **kwargs)

  with nn.intercept_methods(keep_call):
    model.apply(variables, **arguments)
  decoder, (place, memory, memory_place) = given['decoder'], given['args']
  mask = given['kwargs']['key_mask']
  layer = DecoderLayer(decoder.heads, decoder.hidden, 0.0, None, decoder.dtype)
  params = variables['params']['head']['decoder']['layers']
  keys = memory + memory_place
  x, weights = jnp.zeros(place.shape, jnp.float32), []

  def keep_weights(call, args, kwargs, context):
    if isinstance(context.module, Attention) and context.module.name == 'cross_attention':
      kernel, bias = (context.module.get_variable('params', name) for name in ('in_proj_kernel', 'in_proj_bias'))
      weights.append(_weights(args[0], args[1], kernel, bias, context.module.heads, mask))
    return call(*args, **kwargs)

  with nn.intercept_methods(keep_weights):
    for index in range(decoder.layers):
      own = jax.tree.map(lambda leaf, index=index: leaf[index], params)
      x, _ = layer.apply({'params': own}, x, place, keys, memory, mask, None, False)
  return jnp.stack(weights)


def _weights(
  q: jax.Array, k: jax.Array, kernel: jax.Array, bias: jax.Array, heads: int, mask: jax.Array | None
) -> jax.Array:
  """[batch, heads, queries, tokens]."""
  width = q.shape[-1]

  def project(x, part):
    columns = slice(part * width, (part + 1) * width)
    return (x @ kernel[:, columns] + bias[columns]).reshape(*x.shape[:-1], heads, width // heads)

  scores = jnp.einsum('bqhd,bkhd->bhqk', project(q, 0), project(k, 1)) * (width // heads) ** -0.5
  if mask is None:
    return jax.nn.softmax(scores, axis=-1)
  return jax.nn.softmax(scores, axis=-1, where=mask[:, None, None])
