"""Saliency on the sphere: maps from fixations, metrics with solid-angle weights, baselines.

Maps are [height, width] equirectangular densities, fixations unit vectors [n, 3]. Every metric takes `planar=True` for
the unweighted form that most published code computes, in which a polar row counts as much as an equatorial one.
"""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.vr_quality.sphere import PI, lonlat_to_pixel, pixel_directions, pixel_lonlat, solid_angles, to_lonlat

EPS = float(np.finfo(np.float64).eps)
SIGMA = 5.0 / 180.0 * PI  # spread of a fixation


def vmf_map(
  fixations: jax.Array, height: int, width: int, sigma: float = SIGMA, weights: jax.Array | None = None
) -> jax.Array:
  """Mean of von Mises-Fisher densities around the fixations [height, width]; integrates to 1 over the sphere.

  S(x) = 1/N sum_i C(k) exp(k (x . mu_i - 1)), C(k) = k / (2 pi (1 - exp(-2 k))), k = 1 / sigma².

  Source: this library's own.

  Args:
    fixations: [n, 3] unit vectors.
    height: rows.
    width: columns.
    sigma: spread in radians; below two pixels the grid no longer resolves the density.
    weights: [n], normalised here; None: all equal. Zero leaves a (padded) fixation out.
  """
  chex.assert_shape(fixations, (None, 3))
  concentration = 1.0 / sigma**2
  scale = concentration / (2 * PI * -math.expm1(-2 * concentration))
  grid = jnp.asarray(pixel_directions(height, width), fixations.dtype)
  weights = jnp.ones(len(fixations), fixations.dtype) if weights is None else weights

  def row(directions):
    # 1 - x . mu = |x - mu|² / 2 keeps its digits near a fixation, where the dot product loses them in float32.
    gap = jnp.sum(jnp.square(directions[:, None] - fixations[None, :]), axis=-1) / 2
    return jnp.exp(-concentration * gap) @ weights

  return jax.lax.map(row, grid) * (scale / jnp.sum(weights))


def vmf_blur(image: jax.Array, sigma: float) -> jax.Array:
  """Average of [height, width, channels] under a von Mises-Fisher window around every pixel; constants stay.

  The window depends on longitudes only through their difference: a product per frequency in longitude.

  Args:
    image: any real values.
    sigma: spread in radians.
  """
  chex.assert_rank(image, 3)
  height, width = image.shape[:2]
  lon, lat = (jnp.asarray(x, image.dtype) for x in pixel_lonlat(height, width))
  along = jnp.cos(lon - lon[0])
  cosine = jnp.sin(lat)[:, None, None] * jnp.sin(lat)[None, :, None]
  cosine += jnp.cos(lat)[:, None, None] * jnp.cos(lat)[None, :, None] * along
  window = jnp.fft.rfft(jnp.exp((cosine - 1.0) / sigma**2), axis=-1)
  weights = _weights(image.shape[:2], False, image.dtype)

  def spread(x):
    spectrum = jnp.fft.rfft(x * weights[..., None], axis=1)
    return jnp.fft.irfft(jnp.einsum('rsf,sfc->rfc', window, spectrum), width, axis=1)

  return spread(image) / spread(jnp.ones_like(image[..., :1]))


def pixel_index(fixations: jax.Array, height: int, width: int) -> jax.Array:
  """Number, row by row, of the pixel in which every direction [n, 3] lies; int32 [n]."""
  x, y = lonlat_to_pixel(*to_lonlat(fixations), height, width)
  column = jnp.floor(x + 0.5).astype(jnp.int32) % width
  return jnp.clip(jnp.floor(y + 0.5).astype(jnp.int32), 0, height - 1) * width + column


def nss(saliency: jax.Array, fixations: jax.Array, *, planar: bool = False) -> jax.Array:
  """Normalised scanpath saliency: mean z-score of the map at the fixations; 0 for a constant map.

  Source: Peters et al., 2005.

  Args:
    saliency: [height, width].
    fixations: [n, 3] unit vectors.
    planar: mean and deviation over pixels instead of over the sphere.
  """
  chex.assert_shape([saliency, fixations], [(None, None), (None, 3)])
  scores = _standardised(saliency, _weights(saliency.shape, planar, saliency.dtype))
  return jnp.mean(scores.reshape(-1)[pixel_index(fixations, *saliency.shape)])


def correlation(saliency: jax.Array, reference: jax.Array, *, planar: bool = False) -> jax.Array:
  """Pearson correlation (CC) of two maps [height, width]; 0 if one is constant."""
  chex.assert_equal_shape([saliency, reference])
  weights = _weights(saliency.shape, planar, saliency.dtype)
  return jnp.sum(weights * _standardised(saliency, weights) * _standardised(reference, weights))


def similarity(saliency: jax.Array, reference: jax.Array, *, planar: bool = False) -> jax.Array:
  """Histogram intersection (SIM) of the masses of two nonnegative maps [height, width]: 1 if equal, 0 if disjoint."""
  return jnp.sum(jnp.minimum(_masses(saliency, planar), _masses(reference, planar)))


def divergence(saliency: jax.Array, reference: jax.Array, *, planar: bool = False) -> jax.Array:
  """Kullback-Leibler divergence from the reference in nats: sum q ln(eps + q / (p + eps)), q the reference."""
  p, q = _masses(saliency, planar), _masses(reference, planar)
  return jnp.sum(q * jnp.log(EPS + q / (p + EPS)))


def auc(saliency: jax.Array, fixations: jax.Array, *, planar: bool = False) -> jax.Array:
  """P(map at a fixation > map at a random pixel without fixation) + half of the ties; 0.5 for a constant map.

  Args:
    saliency: [height, width].
    fixations: [n, 3] unit vectors; a pixel counts as often as it is fixated.
    planar: negatives are drawn uniformly from the pixels instead of from the sphere.
  """
  chex.assert_shape([saliency, fixations], [(None, None), (None, 3)])
  index, values = pixel_index(fixations, *saliency.shape), saliency.reshape(-1)
  weights = _weights(saliency.shape, planar, saliency.dtype).reshape(-1).at[index].set(0)
  return _roc(values[index], values, weights)


def shuffled_auc(saliency: jax.Array, fixations: jax.Array, others: jax.Array) -> jax.Array:
  """AUC whose negatives are fixations on other videos [m, 3], so that a common bias earns nothing.

  Source: Zhang et al., 2008.
  """
  chex.assert_shape([saliency, fixations, others], [(None, None), (None, 3), (None, 3)])
  values = saliency.reshape(-1)
  positive, negative = (values[pixel_index(x, *saliency.shape)] for x in (fixations, others))
  return _roc(positive, negative, jnp.ones_like(negative))


def information_gain(
  saliency: jax.Array, fixations: jax.Array, baseline: jax.Array | None = None, *, planar: bool = False
) -> jax.Array:
  """Mean log2 ratio, in bits per fixation, of the masses of a map and of a baseline at the fixations.

  Source: Kümmerer et al., PNAS 2015.

  Args:
    saliency: [height, width], nonnegative.
    fixations: [n, 3] unit vectors.
    baseline: [height, width]; None: `equator`.
    planar: masses without solid angles.
  """
  baseline = equator(*saliency.shape, dtype=saliency.dtype) if baseline is None else baseline
  index = pixel_index(fixations, *saliency.shape)
  p, q = (_masses(x, planar).reshape(-1)[index] for x in (saliency, baseline))
  return jnp.mean(jnp.log2(EPS + p) - jnp.log2(EPS + q))


def uniform(height: int, width: int, dtype: jnp.dtype = jnp.float32) -> jax.Array:
  """The constant density 1 / (4 pi)."""
  return jnp.full((height, width), 1 / (4 * PI), dtype)


def equator(height: int, width: int, sigma: float = 20.0 / 180.0 * PI, dtype: jnp.dtype = jnp.float32) -> jax.Array:
  """Density proportional to exp(-lat² / (2 sigma²)), sigma in radians. Source: this library's own."""
  _, lat = pixel_lonlat(height, width)
  column = np.exp(-(lat**2) / (2 * sigma**2))
  return _density(jnp.asarray(np.repeat(column[:, None], width, axis=1), dtype))


def start_centred(height: int, width: int, start: jax.Array, sigma: float = 40.0 / 180.0 * PI) -> jax.Array:
  """Density around the starting direction [3]: viewers have seen little but what they began with."""
  return _density(vmf_map(start[None], height, width, sigma))


def centre_surround(
  image: jax.Array, centre: float = 2.0 / 180.0 * PI, surround: float = 10.0 / 180.0 * PI
) -> jax.Array:
  """Density of local contrast: |difference of two blurs on the sphere| in luminance and two colour opponencies.

  Args:
    image: [height, width, 3] RGB in 0..1.
    centre: spread of the narrow blur, radians.
    surround: of the wide one.
  """
  chex.assert_shape(image, (None, None, 3))
  red, green, blue = image[..., 0], image[..., 1], image[..., 2]
  luminance = 0.299 * red + 0.587 * green + 0.114 * blue
  channels = jnp.stack([luminance, red - green, blue - (red + green) / 2], axis=-1)
  contrast = jnp.sum(jnp.abs(vmf_blur(channels, centre) - vmf_blur(channels, surround)), axis=-1)
  return _density(contrast + 1e-6)


def _weights(shape: tuple[int, ...], planar: bool, dtype: jnp.dtype) -> jax.Array:
  """[height, width] that sum to 1."""
  weights = np.ones(shape) if planar else solid_angles(*shape)
  return jnp.asarray(weights / weights.sum(), dtype)


def _masses(saliency: jax.Array, planar: bool) -> jax.Array:
  mass = saliency * _weights(saliency.shape, planar, saliency.dtype)
  return mass / jnp.sum(mass)


def _density(saliency: jax.Array) -> jax.Array:
  return saliency / (4 * PI * jnp.sum(saliency * _weights(saliency.shape, False, saliency.dtype)))


def _standardised(saliency: jax.Array, weights: jax.Array) -> jax.Array:
  """Weighted z-scores; 0 everywhere for a map that is constant up to rounding."""
  centred = saliency - jnp.sum(weights * saliency)
  std = jnp.sqrt(jnp.sum(weights * jnp.square(centred)))
  # By its range: the mean of equal numbers is off by more than their last digit.
  flat = jnp.ptp(saliency) <= 16 * jnp.finfo(saliency.dtype).eps * jnp.max(jnp.abs(saliency))
  return jnp.where(flat, 0, centred / jnp.where(flat, 1, std))


def _roc(positive: jax.Array, negative: jax.Array, weights: jax.Array) -> jax.Array:
  """Area under the ROC of [n] against [m] weighted negatives, ties counted half."""
  order = jnp.argsort(negative)
  values = negative[order]
  below = jnp.concatenate([jnp.zeros(1, weights.dtype), jnp.cumsum(weights[order])])
  left, right = (below[jnp.searchsorted(values, positive, side=side)] for side in ('left', 'right'))
  return jnp.mean(left + right) / (2 * below[-1])
