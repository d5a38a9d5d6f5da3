"""From a map over the sphere to one number: plain, solid-angle and visibility weights.

A plain mean of almost equivariant features does not know where the viewer started. Here quality is kept as a map and
averaged with weights area(d) exp(k (d . toward - 1)): large k looks near the starting direction, k = 0 everywhere.
"""

import chex
import jax
import jax.numpy as jnp

from jaxpapers.vr_quality.sphere import pixel_directions, solid_angles, tangent_frame


def area_weights(height: int, width: int, dtype: jnp.dtype = jnp.float32) -> jax.Array:
  """Share of the sphere [height, width] of every pixel; sums to 1. Source: this library's own."""
  areas = solid_angles(height, width)
  return jnp.asarray(areas / areas.sum(), dtype)


def visibility_weights(height: int, width: int, toward: jax.Array, concentration: jax.Array) -> jax.Array:
  """Weights proportional to area(d) exp(k (d . toward - 1)) of the pixels of a panorama. Source: this library's own.

  Args:
    height: of the map.
    width: of the map.
    toward: [..., 3] unit vectors: the starting direction, or the gaze.
    concentration: [...] k >= 0, broadcast against `toward`; 0 gives `area_weights`.

  Returns:
    [..., height, width], summing to 1; differentiable in `toward` and `concentration`.
  """
  chex.assert_axis_dimension(toward, -1, 3)
  directions = jnp.asarray(pixel_directions(height, width), toward.dtype)
  closeness = jnp.einsum('...d,hwd->...hw', toward, directions, precision=jax.lax.Precision.HIGHEST) - 1
  weights = area_weights(height, width, toward.dtype) * jnp.exp(concentration[..., None, None] * closeness)
  return weights / jnp.sum(weights, axis=(-2, -1), keepdims=True)


def pool(values: jax.Array, weights: jax.Array) -> jax.Array:
  """Weighted means of maps: values [..., height, width] and weights [..., height, width] -> [...]."""
  return jnp.sum(values * weights, axis=(-2, -1))


def scores_from_starts(
  quality_map: jax.Array, concentration: jax.Array, starts: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """What a clip would score from other starting directions, and which way to turn for a better score.

  Source: this library's own.

  Args:
    quality_map: [frames, height, width], of a panorama that was not turned to a start.
    concentration: [frames] k of the visibility weights.
    starts: [n, 3] unit vectors.

  Returns:
    Scores [n] and their gradients [n, 2] towards east and north, per radian.
  """
  chex.assert_rank([quality_map, concentration, starts], [3, 1, 2])

  def score(toward):
    weights = visibility_weights(*quality_map.shape[1:], toward, concentration)
    return jnp.mean(pool(quality_map, weights))

  scores, slopes = jax.vmap(jax.value_and_grad(score))(starts)
  along = [jnp.sum(slopes * axis, axis=-1) for axis in tangent_frame(starts)]
  return scores, jnp.stack(along, axis=-1)
