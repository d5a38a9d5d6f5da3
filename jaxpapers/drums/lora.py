"""Low-rank adaptation (arXiv 2106.09685): y = x W + scale (x A) B, only A and B trained."""

import re
from collections.abc import Mapping
from typing import Any

import chex
import flax.traverse_util
import jax
import jax.numpy as jnp

ATTENTION = r'/(qkv|query|key|value|out)$'
"""Targets by default: all projections of attention; GPT-2's and NeoX's fused one gets a single pair."""


def init_lora(key: jax.Array, params: Mapping[str, Any], rank: int, targets: str = ATTENTION) -> dict[str, Any]:
  """The collection 'lora' for `params`: A normal with deviation 1 / rank, B zero, so that nothing changes at first.

  Source: Hu et al., ICLR 2022.

  Args:
    key: PRNG key.
    params: of a Decoder.
    rank: r.
    targets: regular expression over '/'-joined paths such as 'blocks/query'.

  Returns:
    {'blocks': {'query': {'a': [layers, in, rank], 'b': [layers, rank, out]}, ...}}, float32.

  Raises:
    ValueError: for a rank below 1, or if no weight is meant.
  """
  if rank < 1:
    raise ValueError(f'The rank of LoRA must be at least 1, not {rank}.')
  lora = {}
  for path, kernel in flax.traverse_util.flatten_dict(dict(params)).items():
    if path[-1] != 'kernel' or not re.search(targets, '/' + '/'.join(path[:-1])):
      continue
    layers, inside, outside = kernel.shape
    key, own = jax.random.split(key)
    lora[(*path[:-1], 'a')] = jax.random.normal(own, (layers, inside, rank)) / rank
    lora[(*path[:-1], 'b')] = jnp.zeros((layers, rank, outside))
  if not lora:
    raise ValueError(f'No weight of this model is called by {targets!r}.')
  return flax.traverse_util.unflatten_dict(lora)


def merge(params: Mapping[str, Any], lora: Mapping[str, Any], scale: float) -> dict[str, Any]:
  """Plain parameters W + scale A B; `scale` is alpha / rank, the Decoder's `lora_scale`.

  Source: Hu et al., ICLR 2022.
  """
  flat, low = flax.traverse_util.flatten_dict(dict(params)), flax.traverse_util.flatten_dict(dict(lora))
  for path in {path[:-1] for path in low}:
    a, b = jnp.asarray(low[(*path, 'a')]), jnp.asarray(low[(*path, 'b')])
    chex.assert_rank([a, b], 3)
    kernel = flat[(*path, 'kernel')]
    flat[(*path, 'kernel')] = kernel + scale * jnp.einsum('lir,lro->lio', a, b).astype(kernel.dtype)
  return flax.traverse_util.unflatten_dict(flat)
