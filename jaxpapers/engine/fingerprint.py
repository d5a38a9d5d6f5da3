"""An integer fingerprint per leaf, because a checkpoint library restores a flipped byte without noticing."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.engine.experiment import PyTree
from jaxpapers.engine.parallel import path_name


def _words(x: jax.Array) -> jax.Array:
  """The bits of `x` as uint32 words, flat."""
  if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    x = jax.random.key_data(x)
  if x.dtype == jnp.bool_:
    x = x.astype(jnp.uint8)
  size = x.dtype.itemsize
  unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[size]
  return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32).ravel()


def _fingerprint(x: jax.Array) -> jax.Array:
  # Integer sums do not depend on order, hence not on sharding or device count; the odd weights see where a bit flipped.
  words = _words(jnp.asarray(x))
  weights = (jax.lax.iota(jnp.uint32, words.size) * np.uint32(2654435761) + np.uint32(40503)) | np.uint32(1)
  return jnp.sum((words ^ (words >> 15)) * weights, dtype=jnp.uint32)


@jax.jit
def _fingerprints(leaves: list[jax.Array]) -> jax.Array:
  return jnp.stack([_fingerprint(x) for x in leaves]) if leaves else jnp.zeros((0,), jnp.uint32)


def fingerprints(state: PyTree) -> dict[str, int]:
  """{path: uint32} over the leaves of `state`."""
  named = [(path_name(p), x) for p, x in jax.tree_util.tree_leaves_with_path(state)]
  values = np.asarray(_fingerprints([x for _, x in named]))
  return {name: int(value) for (name, _), value in zip(named, values, strict=True)}


def leaf_types(state: PyTree) -> dict[str, str]:
  """{path: 'float32[3,4]'} over the leaves of an array or abstract state."""
  return {
    path_name(p): f'{x.dtype}[{",".join(map(str, x.shape))}]' for p, x in jax.tree_util.tree_leaves_with_path(state)
  }
