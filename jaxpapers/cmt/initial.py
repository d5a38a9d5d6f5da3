"""Starts from which both sensors are used at once, for training from scratch on little data.

From the published start cross-attention is nearly uniform, and small models stay with one sensor. Three changes, each a
function from the head's parameters to the head's parameters; together with `Head(frequencies=(-1, 3))`:

    params = scale_embeddings(params, key)
    params = tie_query_key(params)
    params = split_subspaces(params)
"""

from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp

Params = Mapping[str, Any]

_CROSS = ('decoder', 'layers', 'cross_attention', 'in_proj_kernel')


def _changed(params: Params, changes: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
  """A copy with leaves replaced by functions of them; leaves of an absent sensor are passed over."""
  flat = flax.traverse_util.flatten_dict(dict(params))
  flat.update({path: change(flat[path]) for path, change in changes.items() if path in flat})
  return flax.traverse_util.unflatten_dict(flat)


def scale_embeddings(
  params: Params,
  key: jax.Array,
  *,
  bev: tuple[float, float] = (4.0, 5.2),
  rays: tuple[float, float] = (12.0, 2.5),
  ray_bias: float = 6.0,
) -> dict[str, Any]:
  """Larger weights of the position embeddings, so that those of neighbouring cells and pixels differ.

  Source: this library's own.

  Args:
    params: of the head.
    key: of the ray embedding's first bias.
    bev: factors of the two kernels of `bev_embedding`.
    rays: factors of the two kernels of `rv_embedding`.
    ray_bias: the first bias of `rv_embedding` is uniform within this.
  """

  def times(factor):
    return lambda leaf: leaf * factor

  return _changed(
    params,
    {
      ('bev_embedding', 'layer0', 'kernel'): times(bev[0]),
      ('bev_embedding', 'layer1', 'kernel'): times(bev[1]),
      ('rv_embedding', 'layer0', 'kernel'): times(rays[0]),
      ('rv_embedding', 'layer0', 'bias'): lambda b: jax.random.uniform(key, b.shape, b.dtype, -ray_bias, ray_bias),
      ('rv_embedding', 'layer1', 'kernel'): times(rays[1]),
    },
  )


def tie_query_key(params: Params, gain: float = 1.4) -> dict[str, Any]:
  """The key projection of every cross-attention equals its query projection, times `gain`. Source: this library's own.

  Attention then starts at the tokens whose position embedding resembles the query's.
  """

  def tie(kernel):
    query, _, value = jnp.split(kernel, 3, axis=-1)
    return jnp.concatenate([query * gain, query * gain, value], axis=-1)

  return _changed(params, {_CROSS: tie})


def split_subspaces(params: Params) -> dict[str, Any]:
  """LiDAR embeddings in the first half of the channels, camera embeddings in the second; heads do not mix them.

  Query and key projections of cross-attention become block-diagonal: half of the heads start on each sensor.

  Source: this library's own.
  """

  def only(half):
    def change(leaf):
      keep = (jnp.arange(leaf.shape[-1]) < leaf.shape[-1] // 2) == (half == 0)
      return jnp.where(keep, leaf, 0.0)

    return change

  def blocks(kernel):
    width = kernel.shape[-2]
    half = jnp.arange(width) < width // 2
    same = half[:, None] == half
    return kernel * jnp.concatenate([same, same, jnp.ones_like(same)], axis=-1)

  embedding = {
    (module, 'layer1', leaf): only(half)
    for half, module in enumerate(('bev_embedding', 'rv_embedding'))
    for leaf in ('kernel', 'bias')
  }
  return _changed(params, {**embedding, _CROSS: blocks})
