"""What xDeepInt is compared with, on the same ids: logistic regression, factorisation machine, DNN, DCN-V2."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpapers.xdeepint.embeddings import Fields
from jaxpapers.xdeepint.model import FieldEmbedding


class _Linear(nn.Module):
  """A weight per level and a bias."""

  fields: Fields

  @nn.compact
  def __call__(self, ids):
    bias = self.param('bias', nn.initializers.zeros, (1,))
    return FieldEmbedding(self.fields, 1, scale=0.0, name='weights')(ids).sum(axis=(1, 2)) + bias[0]


class LogisticRegression(nn.Module):
  """Order 1: a weight per level."""

  fields: Fields

  @nn.compact
  def __call__(self, ids: jax.Array, train: bool = False) -> jax.Array:
    """Ids [batch, F] -> logits [batch]."""
    return _Linear(self.fields)(ids)


class FactorizationMachine(nn.Module):
  """Order 2: pairwise inner products of embeddings (Rendle, ICDM 2010, equation 1)."""

  fields: Fields
  size: int

  @nn.compact
  def __call__(self, ids: jax.Array, train: bool = False) -> jax.Array:
    """Ids [batch, F] -> logits [batch]."""
    # Products start near zero: with deviation 1 / sqrt(K) they would drown the linear part.
    x = FieldEmbedding(self.fields, self.size, scale=0.04)(ids)
    pairs = 0.5 * (jnp.square(x.sum(axis=1)) - jnp.square(x).sum(axis=1)).sum(axis=1)
    return _Linear(self.fields)(ids) + pairs


class Mlp(nn.Module):
  """Hidden layers with relu."""

  widths: tuple[int, ...]

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, in] -> [batch, widths[-1]]."""
    for width in self.widths:
      x = nn.relu(nn.Dense(width)(x))
    return x


class Dnn(nn.Module):
  """Multi-layer perceptron on the concatenated embeddings."""

  fields: Fields
  size: int
  widths: tuple[int, ...] = (128, 128)

  @nn.compact
  def __call__(self, ids: jax.Array, train: bool = False) -> jax.Array:
    """Ids [batch, F] -> logits [batch]."""
    x = FieldEmbedding(self.fields, self.size)(ids)
    return nn.Dense(1)(Mlp(self.widths)(x.reshape(x.shape[0], -1)))[:, 0]


class DcnV2(nn.Module):
  """Cross layers x0 * (W x + b) + x beside a perceptron (Wang et al., WWW 2021, equation 1; parallel form)."""

  fields: Fields
  size: int
  cross_layers: int = 3
  widths: tuple[int, ...] = (128, 128)

  @nn.compact
  def __call__(self, ids: jax.Array, train: bool = False) -> jax.Array:
    """Ids [batch, F] -> logits [batch]."""
    embedded = FieldEmbedding(self.fields, self.size)(ids)
    x0 = embedded.reshape(embedded.shape[0], -1)
    x = x0
    for _ in range(self.cross_layers):
      x = x0 * nn.Dense(x0.shape[1])(x) + x
    return nn.Dense(1)(jnp.concatenate([x, Mlp(self.widths)(x0)], axis=1))[:, 0]


BASELINES = ('lr', 'fm', 'dnn', 'dcnv2')


def baseline(name: str, fields: Fields, size: int) -> nn.Module:
  """The baseline called `name`, with embedding size `size` where it has embeddings.

  Raises:
    ValueError: for a name that is not in BASELINES.
  """
  if name not in BASELINES:
    raise ValueError(f'Baseline {name!r} is not known; known: {", ".join(BASELINES)}.')
  return {
    'lr': lambda: LogisticRegression(fields),
    'fm': lambda: FactorizationMachine(fields, size),
    'dnn': lambda: Dnn(fields, size),
    'dcnv2': lambda: DcnV2(fields, size),
  }[name]()
