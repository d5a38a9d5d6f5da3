"""The sphere: pixels, longitude and latitude, unit vectors, distances, tangent planes, rotations, solid angles.

One convention everywhere: angles in radians, longitude in [-pi, pi) growing with the columns,
latitude in [-pi/2, pi/2] up; d = (cos lat cos lon, cos lat sin lon, sin lat). The image centre is the +x axis and row 0
is the zenith. Everything is differentiable, with finite gradients at the poles, at the seam and at coincident points.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.vr_quality.arc import arc

PI = float(np.pi)


def pixel_to_lonlat(x: jax.Array, y: jax.Array, height: int, width: int) -> tuple[jax.Array, jax.Array]:
  """Longitude and latitude of column x and row y of a height x width panorama; integers are pixel centres."""
  return (x + 0.5) / width * (2 * PI) - PI, PI / 2 - (y + 0.5) / height * PI


def lonlat_to_pixel(lon: jax.Array, lat: jax.Array, height: int, width: int) -> tuple[jax.Array, jax.Array]:
  """Inverse of `pixel_to_lonlat`: (column, row), real numbers."""
  return (lon / (2 * PI) + 0.5) * width - 0.5, (0.5 - lat / PI) * height - 0.5


def head_to_lonlat(yaw: jax.Array, pitch: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The database's HM_yaw and HM_pitch (degrees, positive pitch looks down) as longitude and latitude in radians.

  Source: the angles that the authors' code reads.
  """
  return jnp.deg2rad(yaw), -jnp.deg2rad(pitch)


def wrap_longitude(lon: jax.Array) -> jax.Array:
  """The same longitude in [-pi, pi); the gradient is 1 everywhere."""
  return lon - 2 * PI * jax.lax.stop_gradient(jnp.floor((lon + PI) / (2 * PI)))


def unit_vector(lon: jax.Array, lat: jax.Array) -> jax.Array:
  """Directions [..., 3] of longitudes and latitudes [...]."""
  lon, lat = jnp.broadcast_arrays(lon, lat)
  return jnp.stack([jnp.cos(lat) * jnp.cos(lon), jnp.cos(lat) * jnp.sin(lon), jnp.sin(lat)], axis=-1)


def to_lonlat(d: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Longitude and latitude [...] of directions [..., 3] of any positive length; longitude 0 at the poles."""
  chex.assert_axis_dimension(d, -1, 3)
  x, y, z = d[..., 0], d[..., 1], d[..., 2]
  level = x * x + y * y
  polar = level == 0
  # Safe inputs inside, so that neither branch of the gradient is NaN at the poles.
  radius = jnp.where(polar, 0, jnp.sqrt(jnp.where(polar, 1, level)))
  lon = jnp.where(polar, 0, jnp.arctan2(y, jnp.where(polar, 1, x)))
  return lon, jnp.arctan2(z, radius)


def norm(v: jax.Array) -> jax.Array:
  """Lengths [...] of vectors [..., n]; the gradient at the zero vector is zero."""
  square = jnp.sum(v * v, axis=-1)
  zero = square == 0
  return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))


def angle_between(a: jax.Array, b: jax.Array) -> jax.Array:
  """Great-circle distance atan2(|a x b|, a . b) in radians [...] of directions [..., 3]; exact for near directions."""
  return arc(norm(jnp.cross(a, b)), jnp.sum(a * b, axis=-1))


def tangent_frame(d: jax.Array) -> tuple[jax.Array, jax.Array]:
  """East and north unit vectors, each [..., 3], of the tangent planes at unit vectors d [..., 3].

  At the poles east is +y, what it is at longitude 0.
  """
  lon, lat = to_lonlat(d)
  lon, lat = jnp.asarray(lon), jnp.asarray(lat)
  east = jnp.stack([-jnp.sin(lon), jnp.cos(lon), jnp.zeros_like(lon)], axis=-1)
  north = jnp.stack([-jnp.sin(lat) * jnp.cos(lon), -jnp.sin(lat) * jnp.sin(lon), jnp.cos(lat)], axis=-1)
  return east, north


def log_map(base: jax.Array, point: jax.Array) -> jax.Array:
  """Tangent vectors (east, north) [..., 2] at `base` that lead to `point`; their length is the distance in radians.

  Args:
    base: unit vectors [..., 3].
    point: unit vectors [..., 3]; opposite to `base` the direction is undefined, and a finite one is returned.
  """
  east, north = tangent_frame(base)
  flat = jnp.stack([jnp.sum(east * point, -1), jnp.sum(north * point, -1)], axis=-1)
  length = norm(flat)
  near = length < 1e-7
  angle = arc(length, jnp.sum(base * point, axis=-1))
  factor = jnp.where(near, 1, angle / jnp.where(near, 1, length))
  return flat * factor[..., None]


def exp_map(base: jax.Array, tangent: jax.Array) -> jax.Array:
  """Inverse of `log_map`: unit vectors [..., 3] reached from `base` [..., 3] along (east, north) [..., 2]."""
  chex.assert_axis_dimension(tangent, -1, 2)
  east, north = tangent_frame(base)
  step = tangent[..., :1] * east + tangent[..., 1:] * north
  angle = norm(tangent)[..., None]
  return jnp.cos(angle) * base + jnp.sinc(angle / PI) * step


def rotation_x(angle: jax.Array) -> jax.Array:
  """[..., 3, 3]: rotation about +x by `angle` [...], right-hand rule."""
  c, s, zero, one = _entries(angle)
  return _matrix([[one, zero, zero], [zero, c, -s], [zero, s, c]])


def rotation_y(angle: jax.Array) -> jax.Array:
  """[..., 3, 3]: rotation about +y by `angle` [...], right-hand rule; turns +x towards -z (down)."""
  c, s, zero, one = _entries(angle)
  return _matrix([[c, zero, s], [zero, one, zero], [-s, zero, c]])


def rotation_z(angle: jax.Array) -> jax.Array:
  """[..., 3, 3]: rotation about +z by `angle` [...], right-hand rule; adds `angle` to every longitude."""
  c, s, zero, one = _entries(angle)
  return _matrix([[c, -s, zero], [s, c, zero], [zero, zero, one]])


def axis_rotation(axis: jax.Array, angle: jax.Array) -> jax.Array:
  """[..., 3, 3]: rotation about unit vectors `axis` [..., 3] by `angle` [...], right-hand rule (Rodrigues)."""
  c, s, zero, _ = _entries(angle)
  x, y, z = axis[..., 0], axis[..., 1], axis[..., 2]
  cross = _matrix([[zero, -z, y], [z, zero, -x], [-y, x, zero]])
  outer = axis[..., :, None] * axis[..., None, :]
  return c[..., None, None] * jnp.eye(3) + s[..., None, None] * cross + (1 - c)[..., None, None] * outer


def _entries(angle):
  angle = jnp.asarray(angle, jnp.result_type(float))
  return jnp.cos(angle), jnp.sin(angle), jnp.zeros_like(angle), jnp.ones_like(angle)


def _matrix(rows):
  shape = jnp.broadcast_shapes(*(jnp.shape(entry) for row in rows for entry in row))
  return jnp.stack([jnp.stack([jnp.broadcast_to(e, shape) for e in row], axis=-1) for row in rows], axis=-2)


def pixel_lonlat(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
  """Longitudes [width] and latitudes [height] of the pixel centres; NumPy float64, a constant of a program."""
  return pixel_to_lonlat(np.arange(width), np.arange(height), height, width)


def pixel_directions(height: int, width: int) -> np.ndarray:
  """Unit vectors [height, width, 3] of the pixel centres; NumPy float64."""
  lon, lat = (a.reshape(shape) for a, shape in zip(pixel_lonlat(height, width), ((1, -1), (-1, 1)), strict=True))
  one = np.ones((height, width))
  return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat) * one], axis=-1)


def solid_angles(height: int, width: int) -> np.ndarray:
  """Exact solid angles [height, width] of the pixels in steradians, (sin top - sin bottom) 2 pi / width; sum 4 pi."""
  edges = np.sin(PI / 2 - np.arange(height + 1) / height * PI)
  return np.repeat(((edges[:-1] - edges[1:]) * (2 * PI / width))[:, None], width, axis=1)
