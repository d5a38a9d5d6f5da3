"""A bank of support: add a class from a few outlined images, save it, and use all classes in one forward pass.

    bank = reft.SupportBank.empty(model)
    bank = bank.extend(model, variables, 'bolt', images, masks)
    bank.save('bank.npz')
    found = bank.predict(model, variables, queries)

With the support head (`heads.SupportHead`) a class of the bank works without training: this library's own extension.
"""

import functools
import json
from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.reft.model import RefT, Support, Switches
from jaxpapers.reft.references import SupportTokens
from jaxpapers.reft.transformer import Predictions


class SupportBank(NamedTuple):
  """What the examples of every class left behind.

  Attributes:
    names: of the network's classes; '' for a class that is still free.
    support: encoded examples (see `model.Support`).
    counts: [classes] int32, examples of each class.
  """

  names: tuple[str, ...]
  support: Support
  counts: jax.Array

  @classmethod
  def empty(cls, model: RefT, names: Sequence[str] = ()) -> 'SupportBank':
    """A bank without examples; `names` are those of the first classes."""
    decoder = model.base.decoder
    if len(names) > model.classes:
      raise ValueError(f'{len(names)} names for a network of {model.classes} classes.')
    centers = tuple(jnp.zeros((model.classes, decoder.width)) for _ in range(decoder.num_levels))
    tokens = SupportTokens(jnp.zeros((0, model.top_k, decoder.width)), jnp.zeros(0, jnp.int32))
    support = Support(centers, jnp.zeros(model.classes, bool), tokens, jnp.zeros((model.classes, decoder.width)))
    filled = (*names, *[''] * (model.classes - len(names)))
    return cls(filled, support, jnp.zeros(model.classes, jnp.int32))

  def extend(self, model: RefT, variables: dict, name: str, images: jax.Array, masks: jax.Array) -> 'SupportBank':
    """The bank with examples of a class, new or known.

    Args:
      model: the network.
      variables: its variables.
      name: of the class; a new one takes the first free place.
      images: [examples, height, width, 3], normalised.
      masks: [examples, height, width], the one object of each, 0 to 1.

    Raises:
      ValueError: if there is no free place, or a mask is empty or of another size than its image.
    """
    if not name:
      raise ValueError('A class needs a name.')
    if len(images) == 0 or np.shape(masks) != np.shape(images)[:3]:
      raise ValueError(f'Class {name!r}: masks of shape {np.shape(masks)} do not outline images {np.shape(images)}.')
    for index, mask in enumerate(np.asarray(masks)):
      if not mask.any():
        raise ValueError(f'Class {name!r}: the mask of example {index} is empty.')
    if name not in self.names and '' not in self.names:
      raise ValueError(f'No place for class {name!r}: the network has {model.classes} classes, all taken.')
    place = self.names.index(name) if name in self.names else self.names.index('')
    classes = jnp.full(len(images), place, jnp.int32)
    added = _encode(model, variables, jnp.asarray(images), jnp.asarray(masks, jnp.float32), classes)
    return self.join(
      SupportBank(tuple(name if i == place else '' for i in range(model.classes)), added, _counts(added))
    )

  def join(self, other: 'SupportBank') -> 'SupportBank':
    """Both banks' examples; means are over all of them.

    Raises:
      ValueError: if one class has two names.
    """
    for index, pair in enumerate(zip(self.names, other.names, strict=True)):
      if all(pair) and pair[0] != pair[1]:
        raise ValueError(f'Class {index} is {pair[0]!r} in one bank and {pair[1]!r} in the other.')
    total = self.counts + other.counts
    share = (other.counts / jnp.maximum(total, 1))[:, None]

    def mean(a, b):
      return a * (1.0 - share) + b * share

    tokens = SupportTokens(
      *(jnp.concatenate(pair) for pair in zip(self.support.tokens, other.support.tokens, strict=True))
    )
    centers = tuple(mean(a, b) for a, b in zip(self.support.centers, other.support.centers, strict=True))
    query_mean = mean(self.support.query_mean, other.support.query_mean)
    names = tuple(a or b for a, b in zip(self.names, other.names, strict=True))
    return SupportBank(names, Support(centers, total > 0, tokens, query_mean), total)

  def predict(self, model: RefT, variables: dict, images: jax.Array, switches: Switches | None = None) -> Predictions:
    """All classes of the bank in one forward pass over normalised images [batch, height, width, 3].

    Raises:
      ValueError: if the bank has no example.
    """
    if not len(self.support.tokens.classes):
      raise ValueError('The bank has no example yet: extend it first.')
    return _predict(model, variables, images, self.support, switches)

  def save(self, path: str) -> None:
    """Writes the bank as .npz."""
    arrays = {f'center{i}': np.asarray(x) for i, x in enumerate(self.support.centers)}
    arrays |= {
      'queries': np.asarray(self.support.tokens.queries),
      'classes': np.asarray(self.support.tokens.classes),
      'query_mean': np.asarray(self.support.query_mean),
      'counts': np.asarray(self.counts),
    }
    np.savez_compressed(path, names=json.dumps(self.names), **arrays)

  @classmethod
  def load(cls, path: str, model: RefT) -> 'SupportBank':
    """The bank that `save` wrote.

    Raises:
      ValueError: naming a file that is no bank, or one of another network.
    """
    template = cls.empty(model)
    try:
      with np.load(path) as data:
        names = tuple(json.loads(str(data['names'])))
        centers = tuple(jnp.asarray(data[f'center{i}']) for i in range(len(template.support.centers)))
        tokens = SupportTokens(jnp.asarray(data['queries']), jnp.asarray(data['classes']))
        counts, query_mean = jnp.asarray(data['counts']), jnp.asarray(data['query_mean'])
    except (OSError, ValueError, KeyError) as error:
      raise ValueError(f'{path} cannot be read as a bank of support: {error}.') from error
    bank = cls(names, Support(centers, counts > 0, tokens, query_mean), counts)
    fits = len(names) == model.classes and query_mean.shape == template.support.query_mean.shape
    if not fits or tokens.queries.shape[1:] != template.support.tokens.queries.shape[1:]:
      raise ValueError(f'{path} is a bank of another network: {len(names)} classes of width {query_mean.shape[-1]}.')
    chex.assert_equal_shape(list(centers) + [query_mean])
    return bank


@functools.partial(jax.jit, static_argnums=0)
def _encode(model, variables, images, masks, classes):
  return model.apply(variables, images, masks, classes, method='support')


@functools.partial(jax.jit, static_argnums=0)
def _predict(model, variables, images, support, switches):
  return model.apply(variables, images, support, switches=switches)


def _counts(support: Support) -> jax.Array:
  return jnp.sum(jax.nn.one_hot(support.tokens.classes, len(support.present), dtype=jnp.int32), axis=0)
