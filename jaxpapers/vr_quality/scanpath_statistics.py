"""What one scanpath does, and how alike many are over time. Radians; pure.

Paths are unit vectors [time, 3]; `vmap` for many. Of a padded path `length` points count.
"""

import chex
import jax
import jax.numpy as jnp

from jaxpapers.vr_quality.alignment import Length
from jaxpapers.vr_quality.sphere import PI, angle_between, norm, pixel_directions, solid_angles


def angular_speed(path: jax.Array, rate: float = 1.0, length: Length = None) -> jax.Array:
  """Distances between successive points times the sampling rate in Hz, radians per second [time - 1]; 0 on padding.

  Source: this library's own.
  """
  chex.assert_shape(path, (None, 3))
  return jnp.where(_counted(path, length)[1:], angle_between(path[:-1], path[1:]), 0) * rate


def total_length(path: jax.Array, length: Length = None) -> jax.Array:
  """Sum of the distances between successive points, radians."""
  return jnp.sum(angular_speed(path, 1.0, length))


def displacement(path: jax.Array, length: Length = None) -> jax.Array:
  """Distance from the first point, radians [time]; 0 on padding. Source: this library's own."""
  return jnp.where(_counted(path, length), angle_between(path[:1], path), 0)


def mean_absolute_latitude(path: jax.Array, length: Length = None) -> jax.Array:
  """Mean |latitude|, radians; pi / 2 - 1 for directions uniform over the sphere."""
  latitude = jnp.abs(jnp.arctan2(path[:, 2], norm(path[:, :2])))
  counted = _counted(path, length)
  return jnp.sum(jnp.where(counted, latitude, 0)) / jnp.sum(counted)


def resultant_length(path: jax.Array, length: Length = None) -> jax.Array:
  """Length of the mean direction: 1 for a gaze that stays, 0 for one spread over the sphere."""
  counted = _counted(path, length)
  return norm(jnp.sum(jnp.where(counted[:, None], path, 0), axis=0)) / jnp.sum(counted)


def explored_solid_angle(
  path: jax.Array, length: Length = None, *, radius: float = PI / 4, height: int = 64
) -> jax.Array:
  """Solid angle of the union of caps around the points, steradians, on a height x 2 height grid of pixels.

  Source: this library's own.

  Args:
    path: [time, 3] unit vectors.
    length: points that count; None: all.
    radius: of a cap in radians; 45 degrees is half of the viewport's field of view.
    height: rows of the grid.
  """
  grid = jnp.asarray(pixel_directions(height, 2 * height).reshape(-1, 3), path.dtype)
  seen = (grid @ path.T >= jnp.cos(jnp.asarray(radius, path.dtype))) & _counted(path, length)
  weights = jnp.asarray(solid_angles(height, 2 * height).reshape(-1), path.dtype)
  return jnp.sum(jnp.where(jnp.any(seen, axis=1), weights, 0))


def speed_spectrum(path: jax.Array, rate: float = 1.0) -> tuple[jax.Array, jax.Array]:
  """(frequencies in Hz, power) [(time - 1) // 2 + 1] of the angular speed about its mean; sums to its variance."""
  speed = angular_speed(path, rate)
  n = len(speed)
  power = jnp.square(jnp.abs(jnp.fft.rfft(speed - jnp.mean(speed)))) / n**2
  frequency = jnp.fft.rfftfreq(n, 1.0 / rate)
  mirrored = (jnp.arange(len(power)) > 0) & (2 * jnp.arange(len(power)) != n)
  return frequency, jnp.where(mirrored, 2, 1) * power


def pairwise_over_time(paths: jax.Array, present: jax.Array | None = None) -> jax.Array:
  """Mean distance between two observers at every time, radians [time]; NaN where fewer than two are present.

  Source: this library's own.

  Args:
    paths: [observers, time, 3] unit vectors.
    present: [observers, time] bool; None: everybody always.
  """
  chex.assert_shape(paths, (None, None, 3))
  here = jnp.ones(paths.shape[:2], bool) if present is None else present
  both = here[:, None] & here[None, :] & ~jnp.eye(len(paths), dtype=bool)[..., None]
  gaps = angle_between(paths[:, None], paths[None, :])
  pairs = jnp.sum(both, axis=(0, 1))
  total = jnp.sum(jnp.where(both, gaps, 0), axis=(0, 1))
  return jnp.where(pairs > 0, total / jnp.maximum(pairs, 1), jnp.nan)


def resultant_over_time(paths: jax.Array, present: jax.Array | None = None) -> jax.Array:
  """Length of the mean direction of all observers at every time [time]; arguments of `pairwise_over_time`.

  Source: this library's own.
  """
  chex.assert_shape(paths, (None, None, 3))
  here = jnp.ones(paths.shape[:2], bool) if present is None else present
  total = norm(jnp.sum(jnp.where(here[..., None], paths, 0), axis=0))
  count = jnp.sum(here, axis=0)
  return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)


def _counted(path: jax.Array, length: Length) -> jax.Array:
  return jnp.arange(len(path)) < (len(path) if length is None else length)
