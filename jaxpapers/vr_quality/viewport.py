"""Viewports: what a viewer sees of a panorama, by rectilinear projection."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from jaxpapers.vr_quality.sampling import sample_erp
from jaxpapers.vr_quality.sphere import lonlat_to_pixel, rotation_x, rotation_y, rotation_z, to_lonlat


def viewport_rays(lon: jax.Array, lat: jax.Array, roll: jax.Array, fov: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Directions through the pixels of a viewport. Source: the authors' viewports.

  Args:
    lon: scalar, longitude of the central ray, radians.
    lat: scalar, its latitude.
    roll: scalar, turns the camera clockwise about its axis, so that the image turns anticlockwise.
    fov: scalar, horizontal field of view, radians, below pi. The outer pixel centres lie on its edge.
    size: (height, width); the vertical field of view follows from the aspect, tan(fov_y / 2) = tan(fov / 2) h / w.

  Returns:
    [height, width, 3], not normalised: the component along the camera's axis is 1.
  """
  height, width = size
  edge = jnp.tan(jnp.asarray(fov) / 2)
  x = jnp.linspace(-1.0, 1.0, width) * edge
  y = jnp.linspace(-1.0, 1.0, height) * edge * (height / width)
  # Camera frame: x right, y up, z forward.
  camera = jnp.stack(jnp.broadcast_arrays(x, -y[:, None], jnp.ones_like(edge)), axis=-1)
  turn = rotation_y(lon) @ rotation_x(-jnp.asarray(lat)) @ rotation_z(-jnp.asarray(roll))
  q = jnp.einsum('ij,hwj->hwi', turn, camera, precision=jax.lax.Precision.HIGHEST)
  # World frame: x towards the image centre, y to the right, z up.
  return jnp.stack([q[..., 2], q[..., 0], q[..., 1]], axis=-1)


def viewport(
  image: jax.Array,
  lon: jax.Array,
  lat: jax.Array,
  roll: jax.Array = 0.0,
  fov: jax.Array = np.pi / 2,
  size: tuple[int, int] = (224, 224),
  method: str = 'bilinear',
) -> jax.Array:
  """The viewport of a panorama in a direction; differentiable in the image and every angle, and made to be vmapped.

  Source: rectilinear projection as in the authors' code, without its seam.

  Args:
    image: [panorama height, panorama width, channels]; uint8 frames need no conversion.
    lon: scalar, radians.
    lat: scalar, radians, up; the database's HM_pitch is -lat in degrees.
    roll: scalar, radians.
    fov: scalar, horizontal, radians.
    size: (height, width) in pixels.
    method: see `sample_erp`.

  Returns:
    [height, width, channels], without a seam at +-180 degrees or at the poles.
  """
  return sample_erp(image, *to_lonlat(viewport_rays(lon, lat, roll, fov, size)), method)


def scanpath_viewports(
  frames: jax.Array, lon: jax.Array, lat: jax.Array, fov: float = np.pi / 2, size: tuple[int, int] = (224, 224)
) -> jax.Array:
  """Viewports along scanpaths, one per frame: what the scanpath model sees.

  Source: the paper's model along scanpaths, as in the authors' code.

  Args:
    frames: [time, panorama height, panorama width, channels]; uint8 frames need no conversion.
    lon: [scanpaths, time], radians.
    lat: [scanpaths, time].
    fov: horizontal, radians.
    size: (height, width) in pixels.

  Returns:
    [scanpaths, time, height, width, channels].
  """

  def along(lon, lat):
    return jax.vmap(lambda image, a, b: viewport(image, a, b, fov=fov, size=size))(frames, lon, lat)

  return jax.vmap(along)(lon, lat)


def spline_viewport(image: np.ndarray, lon: float, lat: float, fov: float, size: tuple[int, int]) -> np.ndarray:
  """The authors' viewport: cubic splines over the whole panorama and 0 outside its samples, so with a black seam.

  For comparison; on the host. uint8 images give rounded, clipped uint8.

  Args:
    image: [panorama height, panorama width, channels].
    lon: radians.
    lat: radians.
    fov: radians.
    size: (height, width) in pixels.

  Returns:
    [height, width, channels], uint8 for such an image, else float64.
  """
  half = np.tan(fov / 2)
  x, y = np.meshgrid(np.linspace(-half, half, size[1]), np.linspace(-half, half, size[0]) * size[0] / size[1])
  up, away = -y * np.cos(lat) + np.sin(lat), y * np.sin(lat) + np.cos(lat)
  right = x * np.cos(lon) + away * np.sin(lon)
  away = -x * np.sin(lon) + away * np.cos(lon)
  column, row = lonlat_to_pixel(
    np.arctan2(right, away), np.arctan2(up, np.hypot(right, away)), image.shape[0], image.shape[1]
  )
  planes = [
    ndimage.map_coordinates(image[..., c].astype(np.float64), [row, column], order=3) for c in range(image.shape[-1])
  ]
  out = np.stack(planes, axis=-1)
  return np.clip(np.rint(out), 0, 255).astype(np.uint8) if image.dtype == np.uint8 else out
