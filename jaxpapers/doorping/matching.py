"""Distances between the gradients on real and on synthetic images (Zhao et al., ICLR 2021)."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

EPS = 1e-6  # beside the product of the norms, as the authors have it
DISTANCES = ('ours', 'mse', 'cos')


def safe_norm(x: jax.Array, axis: int | None = None) -> jax.Array:
  """Euclidean norm with gradient zero at the origin, where dead units would otherwise give NaN."""
  square = jnp.sum(jnp.square(x), axis)
  positive = square > 0
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def row_distances(real: jax.Array, synthetic: jax.Array) -> jax.Array:
  """1 - cosine per output unit: gradients [..., units] -> [units]; the last axis of every weight is its outputs."""
  chex.assert_equal_shape((real, synthetic))
  r, s = (x.reshape(-1, x.shape[-1]) for x in (real, synthetic))
  return 1.0 - jnp.sum(r * s, 0) / (safe_norm(r, 0) * safe_norm(s, 0) + EPS)


def leaf_distances(real: Any, synthetic: Any) -> Any:
  """The terms of 'ours' per parameter: a tree of scalars; parameters with one axis give exactly 0.

  Source: Zhao et al., ICLR 2021, and its code.
  """
  return jax.tree.map(
    lambda r, s: jnp.sum(row_distances(r, s)) if r.ndim > 1 else jnp.zeros((), r.dtype), real, synthetic
  )


def gradient_distance(real: Any, synthetic: Any, kind: str = 'ours') -> jax.Array:
  """Distance of two gradients (trees like the parameters). Source: Zhao et al., ICLR 2021, and its code.

  Args:
    real: gradient on real images; a constant.
    synthetic: gradient on synthetic images, differentiated through.
    kind: 'ours' (sum over output units of 1 - cosine, biases and norms ignored; between 0 and twice the number of
      units), 'mse' (squared distance of all parameters) or 'cos' (1 - cosine of all parameters together).

  Raises:
    ValueError: for another kind.
  """
  if kind not in DISTANCES:
    raise ValueError(f'Unknown gradient distance {kind!r}; known: {", ".join(DISTANCES)}.')
  real = jax.lax.stop_gradient(real)
  if kind == 'ours':
    return sum(jax.tree.leaves(leaf_distances(real, synthetic)))
  r, s = (jnp.concatenate([x.reshape(-1) for x in jax.tree.leaves(tree)]) for tree in (real, synthetic))
  if kind == 'mse':
    return jnp.sum(jnp.square(r - s))
  return 1.0 - jnp.sum(r * s) / (safe_norm(r) * safe_norm(s) + EPS)
