"""Angles between 0 and pi from their sine and cosine, as arithmetic that processors do several at a time.

XLA's arc tangent is a call per element on a CPU, which costs more than everything else in the alignment of scanpaths.
In single precision a polynomial takes its place; other precisions keep `jnp.arctan2`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import Chebyshev, Polynomial

_REACH = float(np.tan(np.pi / 8))  # the series is used up to here; an eighth turn takes larger arguments below it


def _series() -> tuple[float, ...]:
  """p(z) with atan(x) = x + x z p(z), z = x^2, interpolated between 0 and _REACH; off by less than 1e-9."""

  def rest(z):
    x = np.sqrt(z)
    return (np.arctan(x) / x - 1) / z

  fitted = Chebyshev.interpolate(rest, 5, domain=[0.0, _REACH**2]).convert(kind=Polynomial)
  return tuple(float(c) for c in fitted.coef)


_COEFFICIENTS = _series()


@jax.custom_jvp
def arc(sine: jax.Array, cosine: jax.Array) -> jax.Array:
  """atan2(sine, cosine) where sine >= 0: radians [...] in [0, pi].

  Args:
    sine: [...], at least 0, of any common scale with `cosine`.
    cosine: [...].

  Returns:
    [...], in float32 within 3e-7; differentiable to any order, with gradient 0 where both are 0.
  """
  sine, cosine = jnp.broadcast_arrays(sine, cosine)
  if jnp.result_type(sine, cosine) != jnp.float32:
    return jnp.arctan2(sine, cosine)
  away = jnp.abs(cosine)
  small, large = jnp.minimum(sine, away), jnp.maximum(sine, away)
  steep = small > _REACH * large
  top, bottom = jnp.where(steep, small - large, small), jnp.where(steep, small + large, large)
  x = top / jnp.where(bottom == 0, 1, bottom)
  z = x * x
  angle = jnp.where(steep, jnp.float32(np.pi / 4), 0) + (x + x * z * jnp.polyval(jnp.float32(_COEFFICIENTS[::-1]), z))
  angle = jnp.where(sine > away, jnp.float32(np.pi / 2) - angle, angle)
  return jnp.where(cosine < 0, jnp.float32(np.pi) - angle, angle)


@arc.defjvp
def _arc_jvp(primals, tangents):
  (sine, cosine), (d_sine, d_cosine) = primals, tangents
  square = sine * sine + cosine * cosine
  slope = (cosine * d_sine - sine * d_cosine) / jnp.where(square == 0, 1, square)
  return arc(sine, cosine), jnp.broadcast_to(slope, jnp.broadcast_shapes(jnp.shape(sine), jnp.shape(cosine)))
