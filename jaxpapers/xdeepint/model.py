"""xDeepInt and its parts as Flax modules: ids -> embeddings -> polynomial interaction network -> logit."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpapers.xdeepint import embeddings
from jaxpapers.xdeepint.embeddings import Fields
from jaxpapers.xdeepint.pin import (
  activation,
  multi_head_pin,
  output_logits,
  output_rows,
  pin,
  sub_space_size,
)


def kernel_init(key: jax.Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = jnp.float32) -> jax.Array:
  """Glorot uniform over the last two axes: +-sqrt(6 / (in + out))."""
  limit = (6.0 / (shape[-2] + shape[-1])) ** 0.5
  return jax.random.uniform(key, shape, dtype, -limit, limit)


class FieldEmbedding(nn.Module):
  """All fields' tables as one. Source: the embedding layer of the paper.

  Attributes:
    fields: names and sizes.
    size: K.
    scale: of the initial values, times 1 / sqrt(K).
  """

  fields: Fields
  size: int
  scale: float = 1.0

  @nn.compact
  def __call__(self, ids: jax.Array) -> jax.Array:
    """Field-local ids [batch, F], -1 missing -> [batch, F, K]; a missing value is a zero vector."""
    table = self.param('table', lambda key: self.scale * embeddings.initial_table(key, self.fields, self.size))
    return embeddings.take_rows(table, embeddings.global_ids(ids, self.fields))


class PinHead(nn.Module):
  """Embeddings to logits: the block and the output weights.

  Attributes:
    layers: L; the polynomial has degree L + 1.
    sub_spaces: h.
    act: name of the activation; all published recipes use 'linear'.
    output: see `pin`.
    dropout: a rate per layer, or ().
    dtype: precision of the matrix product, 'float32' or 'bfloat16'; everything else stays float32.
  """

  layers: int
  sub_spaces: int
  act: str = 'linear'
  output: str = 'product'
  dropout: tuple[float, ...] = ()
  dtype: str = 'float32'

  def check(self, size: int) -> 'PinHead':
    """Itself, if it fits embeddings of `size`.

    Raises:
      ValueError: naming the setting that cannot be.
    """
    sub_space_size(size, self.sub_spaces)
    activation(self.act)
    output_rows(1, self.layers, self.output)
    if self.layers < 0 or (self.dropout and len(self.dropout) != self.layers):
      raise ValueError(f'layers={self.layers} must not be negative, with one dropout rate each, not {self.dropout}.')
    if not all(0.0 <= rate < 1.0 for rate in self.dropout):
      raise ValueError(f'Dropout rates lie in [0, 1), not {self.dropout}.')
    return self

  @nn.compact
  def __call__(self, x0: jax.Array, train: bool = False, depth: jax.Array | None = None) -> jax.Array:
    """[batch, F, K] -> logits [batch]. Dropout draws from the rng stream 'dropout'.

    `depth`, a scalar that may be traced, switches the layers from there on off: networks of every depth are then one
    program.
    """
    fields, size = x0.shape[1:]
    sub_space_size(size, self.sub_spaces)
    rows = self.sub_spaces * fields
    kernels = self.param('kernels', kernel_init, (self.layers, rows, rows))
    if depth is not None:
      kernels = jnp.where(jnp.arange(self.layers)[:, None, None] < depth, kernels, 0.0)
    out_rows = output_rows(fields, self.layers, self.output)
    out_kernel = self.param('out_kernel', kernel_init, (out_rows, 1))
    out_bias = self.param('out_bias', nn.initializers.zeros, (1,))
    block = pin(
      x0,
      kernels,
      self.sub_spaces,
      activation(self.act),
      output=self.output,
      dropout=self.dropout,
      key=self.make_rng('dropout') if train and any(self.dropout) else None,
      dtype=self.dtype if self.dtype != 'float32' else None,
    )
    return output_logits(block, out_kernel, out_bias)


class XDeepInt(nn.Module):
  """The whole model. Parameters: {'embedding': {'table'}, 'pin': {'kernels', 'out_kernel', 'out_bias'}}.

  Source: the paper's architecture.

  Attributes:
    fields: names and sizes.
    size: K.
    pin: the interaction network.
  """

  fields: Fields
  size: int
  pin: PinHead

  @nn.compact
  def __call__(self, ids: jax.Array, depth: jax.Array | None = None, train: bool = False) -> jax.Array:
    """Field-local ids [batch, F], -1 missing -> logits [batch]; `depth` as in `PinHead`."""
    return self.pin(FieldEmbedding(self.fields, self.size, name='embedding')(ids), train, depth)


class MultiHeadPin(nn.Module):
  """A projection, then one network per head. In the authors' code, but not used by their model.

  Attributes:
    hidden: H, a multiple of the number of heads.
    layers: L_i of each head.
    sub_spaces: h_i of each head.
    acts: activation of each head.
  """

  hidden: int
  layers: tuple[int, ...]
  sub_spaces: tuple[int, ...]
  acts: tuple[str, ...]

  @nn.compact
  def __call__(self, x0: jax.Array) -> jax.Array:
    """[batch, F, K] -> [batch, heads * F, H / heads]."""
    fields, size = x0.shape[1:]
    projection = self.param('projection', kernel_init, (size, self.hidden))
    kernels = [
      self.param(f'kernels_{i}', kernel_init, (layers, h * fields, h * fields))
      for i, (layers, h) in enumerate(zip(self.layers, self.sub_spaces, strict=True))
    ]
    return multi_head_pin(x0, projection, kernels, self.sub_spaces, [activation(name) for name in self.acts])


def parameter_count(fields: int, layers: int, sub_spaces: int) -> int:
  """Parameters of block and output in the residual form: L (h F)^2 + F + 1."""
  return layers * (sub_spaces * fields) ** 2 + fields + 1
