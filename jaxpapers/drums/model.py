"""One decoder for three families of released language models: GPT-2, Llama (SmolLM2) and GPT-NeoX (Pythia).

Blocks are scanned: their parameters are stacked along a leading layer axis, and a deep model compiles as quickly as a
shallow one. The key-value cache is one array that the scan carries and writes in place.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpapers.drums.architecture import Architecture
from jaxpapers.drums.attention import attention, causal_attention, rotate


class Cache(NamedTuple):
  """Keys and values of the tokens so far.

  Attributes:
    store: [layers, 2, batch, kv_heads, length, head], keys then values; or, for unstacked variables, a tuple of
      (keys, values) of every layer, [batch, kv_heads, length, head] each.
    valid: [batch, length] bool, False where a slot holds padding or nothing yet.
    index: int32 scalar, slots filled. All rows fill the same slots: shorter prompts are padded on the left.
  """

  store: jax.Array | tuple[tuple[jax.Array, jax.Array], ...]
  valid: jax.Array
  index: jax.Array


class Output(NamedTuple):
  """What the decoder gives.

  Attributes:
    logits: [batch, time, ids] float32.
    cache: the filled cache, or None.
    hidden: [layers + 1, batch, time, width], the embedding and every block's output, the last one normed; or None.
  """

  logits: jax.Array
  cache: Cache | None = None
  hidden: jax.Array | None = None


def empty_cache(
  architecture: Architecture, batch: int, length: int, dtype: str = 'float32', unstacked: bool = False
) -> Cache:
  """A cache for `length` tokens of `batch` texts; `unstacked` goes with variables that are (see `unstack`).

  Raises:
    ValueError: if the model's positions end before `length`.
  """
  _check_length(architecture, length)
  a = architecture
  shape = (batch, a.kv_heads, length, a.head)
  if unstacked:
    store = tuple((jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(a.layers))
  else:
    store = jnp.zeros((a.layers, 2, *shape), dtype)
  return Cache(store, jnp.zeros((batch, length), bool), jnp.zeros((), jnp.int32))


def unstack(variables: Mapping[str, Any]) -> dict[str, Any]:
  """The variables of a Decoder with each block's apart: 'blocks' becomes {'0': ..., '1': ..., ...}.

  With a cache that is unstacked too, the decoder goes through its blocks one by one. A token then costs less, for no
  layer is copied out of a stack; compilation takes longer the more layers there are.
  """

  def apart(tree: Mapping[str, Any]) -> dict[str, Any]:
    leaves, structure = jax.tree.flatten(tree['blocks'])
    layers = [structure.unflatten([x[i] for x in leaves]) for i in range(len(leaves[0]))]
    return {**tree, 'blocks': {str(i): layer for i, layer in enumerate(layers)}}

  return {name: apart(tree) for name, tree in variables.items()}


class Decoder(nn.Module):
  """Token ids -> logits. Source: Radford et al., 2019; Touvron et al., 2023; Black et al., 2022.

  Attributes:
    architecture: sizes and family.
    dtype: compute precision, 'float32' or 'bfloat16'; norms, softmax and logits are float32 anyway.
    dropout: rate after the embedding, on attention weights and on residual branches, in training.
    lora_scale: factor of the low-rank updates in the collection 'lora', where there is one (see lora.py).
    remat: recompute blocks in the backward pass: less memory, a third more time.
  """

  architecture: Architecture
  dtype: str = 'float32'
  dropout: float = 0.0
  lora_scale: float = 1.0
  remat: bool = False

  @nn.compact
  def __call__(
    self,
    ids: jax.Array,
    valid: jax.Array | None = None,
    cache: Cache | None = None,
    *,
    fresh: bool = False,
    last: bool = False,
    hidden: bool = False,
    vocabulary: jax.Array | None = None,
    train: bool = False,
  ) -> Output:
    """Logits of the token after each one.

    Args:
      ids: [batch, time] int32.
      valid: [batch, time] bool, False for padding; positions count valid tokens only. None: all are.
      cache: earlier tokens; `ids` are appended.
      fresh: the cache is empty, so that the tokens need look at each other only.
      last: logits of the last time step alone ([batch, 1, ids]).
      hidden: also the hidden states.
      vocabulary: [n] ids; logits and softmax are restricted to them.
      train: use dropout.

    Raises:
      ValueError: if the text is longer than the model's positions.
    """
    a = self.architecture
    chex.assert_rank(ids, 2)
    _check_length(a, ids.shape[1])
    valid = jnp.ones(ids.shape, bool) if valid is None else valid
    chex.assert_equal_shape([ids, valid])
    positions, mask, cache = _places(valid, cache, fresh)
    tokens = nn.Embed(a.vocabulary, a.width, embedding_init=nn.initializers.normal(0.02), name='tokens')
    x = tokens(ids).astype(self.dtype)
    if a.family == 'gpt2':
      table = jnp.asarray(self.param('positions', nn.initializers.normal(0.02), (a.context, a.width)))
      x = x + table[positions].astype(self.dtype)
    rate = self.dropout if train else 0.0
    x = nn.Dropout(rate, deterministic=not rate)(x)
    block = {'gpt2': Gpt2Block, 'llama': LlamaBlock, 'neox': NeoxBlock}[a.family]
    store, index = (None, None) if cache is None else (cache.store, cache.index - ids.shape[1])
    options, places = (a, self.dtype, rate, self.lora_scale, fresh, hidden), (positions, mask, index)
    if isinstance(store, tuple):
      x, store, states = self._one_by_one(block(*options, parent=None), x, store, places)
    else:
      scanned = nn.scan(
        nn.remat(block, prevent_cse=False) if self.remat else block,
        variable_axes={'params': 0, 'lora': 0},
        split_rngs={'params': True, 'dropout': True},
        in_axes=nn.broadcast,
        length=a.layers,
      )(*options, name='blocks')
      (x, store, _), states = scanned((x, store, jnp.zeros((), jnp.int32)), places)
    if hidden:
      first = tokens(ids).astype(self.dtype) + (table[positions] if a.family == 'gpt2' else 0)
    x = _norm(a, 'final_norm')(x[:, -1:] if last else x)
    if hidden:
      states = jnp.concatenate([first[None], states[:-1], x[None]])
    if a.tied:
      matrix = tokens.embedding
    else:
      matrix = self.param('head', nn.initializers.normal(0.02), (a.vocabulary, a.width))
    matrix = jnp.asarray(matrix)
    matrix = matrix if vocabulary is None else matrix[vocabulary]
    logits = jnp.einsum('btd,vd->btv', x, matrix.astype(x.dtype), preferred_element_type=jnp.float32)
    return Output(logits, cache and cache._replace(store=store), states if hidden else None)

  def _one_by_one(self, block: nn.Module, x: jax.Array, store: tuple, places: tuple) -> tuple:
    """(x, stores, hidden states) after the unstacked blocks."""
    stores, states = [], []
    for layer, own in enumerate(store):
      variables = {name: tree['blocks'][str(layer)] for name, tree in self.variables.items() if 'blocks' in tree}
      (x, own, _), state = block.apply(variables, (x, own, 0), places)
      stores.append(own)
      states.append(state)
    return x, tuple(stores), jnp.stack(states) if states[0] is not None else None


class Gpt2Block(nn.Module):
  """x += proj(attention(norm x)), x += mlp(norm x); queries, keys and values from one matrix."""

  architecture: Architecture
  dtype: str
  dropout: float
  lora_scale: float
  fresh: bool
  hidden: bool

  @nn.compact
  def __call__(self, carry: tuple, places: tuple) -> tuple[tuple, jax.Array | None]:
    """((x [batch, time, width], cache store, layer), (positions, mask, index)) -> (the same carry, x if hidden)."""
    a, (x, store, layer), (_, mask, index) = self.architecture, carry, places
    linear = _linear(self)
    y = linear(3 * a.width, 'qkv')(_norm(a, 'norm_1')(x).astype(self.dtype))
    q, k, v = (part.reshape(*x.shape[:2], a.heads, a.head) for part in jnp.split(y, 3, axis=-1))
    y, store = _attend(self, q, k, v, mask, store, layer, index)
    x = x + _drop(self, linear(a.width, 'out', residual=True)(y))
    y = _activation(a)(linear(a.hidden, 'up')(_norm(a, 'norm_2')(x).astype(self.dtype)))
    x = x + _drop(self, linear(a.width, 'down', residual=True)(y))
    return (x, store, layer + 1), x if self.hidden else None


class LlamaBlock(nn.Module):
  """RMS norms, rotary queries and keys, shared key-value heads, gated MLP; no biases."""

  architecture: Architecture
  dtype: str
  dropout: float
  lora_scale: float
  fresh: bool
  hidden: bool

  @nn.compact
  def __call__(self, carry: tuple, places: tuple) -> tuple[tuple, jax.Array | None]:
    """As Gpt2Block."""
    a, (x, store, layer), (positions, mask, index) = self.architecture, carry, places
    linear = _linear(self, bias=False)
    y = _norm(a, 'norm_1')(x).astype(self.dtype)
    q = linear(a.width, 'query')(y).reshape(*x.shape[:2], a.heads, a.head)
    k = linear(a.kv_heads * a.head, 'key')(y).reshape(*x.shape[:2], a.kv_heads, a.head)
    v = linear(a.kv_heads * a.head, 'value')(y).reshape(*x.shape[:2], a.kv_heads, a.head)
    q, k = (rotate(part, positions, a.rope_theta, int(a.head * a.rotary)) for part in (q, k))
    y, store = _attend(self, q, k, v, mask, store, layer, index)
    x = x + _drop(self, linear(a.width, 'out', residual=True)(y))
    y = _norm(a, 'norm_2')(x).astype(self.dtype)
    y = _activation(a)(linear(a.hidden, 'gate')(y)) * linear(a.hidden, 'up')(y)
    x = x + _drop(self, linear(a.width, 'down', residual=True)(y))
    return (x, store, layer + 1), x if self.hidden else None


class NeoxBlock(nn.Module):
  """Layer norms, rotation of a part of each head, attention and MLP side by side (or in sequence)."""

  architecture: Architecture
  dtype: str
  dropout: float
  lora_scale: float
  fresh: bool
  hidden: bool

  @nn.compact
  def __call__(self, carry: tuple, places: tuple) -> tuple[tuple, jax.Array | None]:
    """As Gpt2Block."""
    a, (x, store, layer), (positions, mask, index) = self.architecture, carry, places
    linear = _linear(self)
    y = linear(3 * a.width, 'qkv')(_norm(a, 'norm_1')(x).astype(self.dtype))
    q, k, v = jnp.moveaxis(y.reshape(*x.shape[:2], a.heads, 3, a.head), 3, 0)
    q, k = (rotate(part, positions, a.rope_theta, int(a.head * a.rotary)) for part in (q, k))
    y, store = _attend(self, q, k, v, mask, store, layer, index)
    attended = x + _drop(self, linear(a.width, 'out', residual=True)(y))
    y = _norm(a, 'norm_2')(x if a.parallel else attended).astype(self.dtype)
    y = linear(a.width, 'down', residual=True)(_activation(a)(linear(a.hidden, 'up')(y)))
    x = attended + _drop(self, y)
    return (x, store, layer + 1), x if self.hidden else None


class Linear(nn.Module):
  """y = x W + b, plus scale (x A) B where the collection 'lora' holds A and B."""

  features: int
  dtype: str
  bias: bool
  std: float
  lora_scale: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., in] -> [..., features]."""
    kernel = self.param('kernel', nn.initializers.normal(self.std), (x.shape[-1], self.features))
    y = x @ kernel.astype(self.dtype)
    if self.bias:
      y = y + self.param('bias', nn.initializers.zeros, (self.features,)).astype(self.dtype)
    if self.has_variable('lora', 'a'):
      a, b = (self.get_variable('lora', name).astype(self.dtype) for name in ('a', 'b'))
      y = y + self.lora_scale * ((x @ a) @ b)
    return y


def _check_length(architecture: Architecture, length: int) -> None:
  if length > architecture.context:
    raise ValueError(
      f'{length} tokens are more than the {architecture.context} positions of this model: shorten the text, or let a '
      'window of whole measures slide over it.'
    )


def _places(valid: jax.Array, cache: Cache | None, fresh: bool) -> tuple[jax.Array, jax.Array, Cache | None]:
  """Positions [batch, time], mask [batch, time, keys], and the cache with these tokens counted in."""
  time = valid.shape[1]
  before = jnp.zeros((), jnp.int32) if cache is None else jnp.sum(cache.valid, axis=1, dtype=jnp.int32)[:, None]
  positions = jnp.maximum(before + jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1, 0)
  if cache is not None:
    start = jnp.zeros((), jnp.int32) if fresh else cache.index
    filled = jax.lax.dynamic_update_slice(cache.valid, valid, (0, start))
    cache = Cache(cache.store, filled, start + time)
  if cache is None or fresh:
    causal = jnp.tril(jnp.ones((time, time), bool))
    return positions, causal & valid[:, None], cache
  slots = jnp.arange(cache.valid.shape[1])
  causal = slots <= (cache.index - time + jnp.arange(time))[:, None]
  return positions, causal & cache.valid[:, None], cache


def _attend(block, q, k, v, mask, store, layer, index) -> tuple[jax.Array, jax.Array | None]:
  """Attention to these tokens, or to all in the cache, which takes them up."""
  k, v = jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)
  if isinstance(store, tuple):
    store = tuple(
      jax.lax.dynamic_update_slice(old, new.astype(old.dtype), (0, 0, index, 0))
      for old, new in zip(store, (k, v), strict=True)
    )
    k, v = (k, v) if block.fresh else store
  elif store is not None:
    new = jnp.stack([k, v])[None].astype(store.dtype)
    store = jax.lax.dynamic_update_slice(store, new, (layer, 0, 0, 0, index, 0))
    if not block.fresh:
      k, v = jax.lax.dynamic_index_in_dim(store, layer, keepdims=False)
  if not block.dropout and (store is None or block.fresh):
    return causal_attention(q, k, v, mask), store
  return attention(q, k, v, mask, lambda weights: _drop(block, weights)), store


def _drop(block, x: jax.Array) -> jax.Array:
  return nn.Dropout(block.dropout, deterministic=not block.dropout)(x)


def _linear(block, bias: bool = True):
  a = block.architecture

  def make(features: int, name: str, residual: bool = False) -> Linear:
    std = 0.02 / (2 * a.layers) ** 0.5 if residual else 0.02
    return Linear(features, block.dtype, bias, std, block.lora_scale, name=name)

  return make


def _norm(architecture: Architecture, name: str) -> nn.Module:
  """In float32; flax's quick variance loses digits."""
  if architecture.family == 'llama':
    return nn.RMSNorm(epsilon=architecture.epsilon, dtype=jnp.float32, name=name)
  return nn.LayerNorm(epsilon=architecture.epsilon, dtype=jnp.float32, use_fast_variance=False, name=name)


def _activation(architecture: Architecture):
  return {
    'gelu_new': lambda x: jax.nn.gelu(x, approximate=True),
    'gelu': lambda x: jax.nn.gelu(x, approximate=False),
    'silu': jax.nn.silu,
  }[architecture.activation]
