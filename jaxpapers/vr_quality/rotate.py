"""Rotating panoramas: general, to a starting viewpoint, and as the authors' preprocessing does."""

import chex
import jax
import jax.numpy as jnp

from jaxpapers.vr_quality.sampling import sample_erp
from jaxpapers.vr_quality.sphere import axis_rotation, pixel_directions, rotation_y, rotation_z, to_lonlat


def rotate_erp(image: jax.Array, matrix: jax.Array, method: str = 'bilinear', poles: str = 'cross') -> jax.Array:
  """Moves the content at direction e to R e: out(d) = in(R^T d).

  Args:
    image: [height, width, channels], floating; width even.
    matrix: [3, 3] rotation R.
    method: see `sample_erp`.
    poles: see `sample_erp`; 'clamp' is the authors' rotation.

  Returns:
    [height, width, channels]; differentiable in image and matrix.
  """
  chex.assert_rank([image, matrix], [3, 2])
  directions = jnp.asarray(pixel_directions(*image.shape[:2]), jnp.result_type(matrix, jnp.float32))
  # d as a row times R is R^T d.
  sources = jnp.einsum('hwi,ij->hwj', directions, matrix, precision=jax.lax.Precision.HIGHEST)
  return sample_erp(image, *to_lonlat(sources), method, poles)


def centre_on(lon: jax.Array, lat: jax.Array) -> jax.Array:
  """The rotation [..., 3, 3] that brings direction (lon, lat), radians, to the image centre: R_y(lat) R_z(-lon).

  Source: this library's own; the authors' is `official_rotation`.
  """
  return jnp.matmul(rotation_y(lat), rotation_z(-jnp.asarray(lon)), precision=jax.lax.Precision.HIGHEST)


def official_rotation(lon: jax.Array, lat: jax.Array) -> jax.Array:
  """The authors' rotation [..., 3, 3], which moves the image centre to (lon, lat), radians.

  R = B A with A about the zenith by `lon` and B by -`lat` about (-sin lon, cos lon, 0). Their preprocessing calls it
  with (-HM_yaw, +HM_pitch) to bring a starting viewpoint to the centre, which is right only at yaw 0: B turns about an
  axis that the yaw has moved. `centre_on` is exact.
  """
  lon, lat = jnp.broadcast_arrays(jnp.asarray(lon), jnp.asarray(lat))
  axis = jnp.stack([-jnp.sin(lon), jnp.cos(lon), jnp.zeros_like(lon)], axis=-1)
  return jnp.matmul(axis_rotation(axis, -lat), rotation_z(lon), precision=jax.lax.Precision.HIGHEST)
