"""Support encoded once, a batch of examples a step, and kept in the state: a test image then costs one forward pass."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.engine.training import TrainState
from jaxpapers.reft.coco_data import SupportSet
from jaxpapers.reft.model import RefT, Support, normalise
from jaxpapers.reft.references import SupportTokens


def batches(examples: SupportSet, batch_size: int) -> tuple[Callable[[int], dict[str, np.ndarray]], int]:
  """(step -> that batch of examples, number of steps); the last batch is padded with examples of class -1."""
  count = len(examples.classes)
  size = min(batch_size, count)
  steps = -(-count // size)

  def batch(step):
    index = np.arange(step * size, (step + 1) * size)
    part = {name: value[np.minimum(index, count - 1)] for name, value in examples._asdict().items()}
    return {**part, 'classes': np.where(index < count, part['classes'], -1).astype(np.int32)}

  return batch, steps


def masked(images: jax.Array, covered: jax.Array) -> jax.Array:
  """Normalised images [batch, h, w, 3] with zeros beyond the part [batch, 2] that the image covers."""
  rows = jnp.arange(images.shape[1])[None] < covered[:, :1]
  columns = jnp.arange(images.shape[2])[None] < covered[:, 1:]
  return jnp.where((rows[:, :, None] & columns[:, None])[..., None], images, 0.0)


def start(model: RefT, places: int, trained: str, key: jax.Array, batch: Any, earlier: Mapping[str, Any]) -> TrainState:
  """The trained network and an empty cache of `places` examples."""
  del key, batch
  state = earlier[trained]
  decoder = model.base.decoder
  row = jnp.zeros((model.classes, decoder.width))
  cache = {
    'centers': [row] * decoder.num_levels,
    'query': row,
    'counts': jnp.zeros(model.classes),
    'tokens': jnp.zeros((places, model.top_k, decoder.width)),
    'classes': jnp.full(places, -1, jnp.int32),
  }
  kept = {name: tree for name, tree in state.model_state.items() if name != 'teacher'}
  return TrainState(jnp.zeros((), jnp.int32), state.params, {**kept, 'cache': cache}, (), None)


def encode(model: RefT, state: TrainState, batch: Mapping[str, jax.Array], key: jax.Array):
  """One batch of examples into the cache; sums are kept, means taken when it is read."""
  del key
  kept = dict(state.model_state)
  cache = kept.pop('cache')
  images = masked(normalise(batch['images']), batch['covered'])
  masks = batch['masks'].astype(jnp.float32)
  found = model.apply({'params': state.params, **kept}, images, masks, batch['classes'], method='support')
  counts = jax.nn.one_hot(batch['classes'], model.classes).sum(axis=0)
  at = state.step * len(batch['classes'])
  cache = {
    'centers': [total + c * counts[:, None] for total, c in zip(cache['centers'], found.centers, strict=True)],
    'query': cache['query'] + found.query_mean * counts[:, None],
    'counts': cache['counts'] + counts,
    'tokens': jax.lax.dynamic_update_slice_in_dim(cache['tokens'], found.tokens.queries, at, 0),
    'classes': jax.lax.dynamic_update_slice_in_dim(cache['classes'], batch['classes'], at, 0),
  }
  state = state.replace(step=state.step + 1, model_state={**kept, 'cache': cache})
  return state, {'examples': cache['counts'].sum()}


def read(state: TrainState) -> tuple[dict[str, Any], Support]:
  """(variables, support) of a state whose cache is full."""
  kept = dict(state.model_state)
  cache = kept.pop('cache')
  number = jnp.maximum(cache['counts'], 1.0)[:, None]
  support = Support(
    tuple(total / number for total in cache['centers']),
    cache['counts'] > 0,
    SupportTokens(cache['tokens'], cache['classes']),
    cache['query'] / number,
  )
  return {'params': state.params, **kept}, support
