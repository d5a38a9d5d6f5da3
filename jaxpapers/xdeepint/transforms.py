"""Numbers into categories. NumPy only, so that `prepare` and its workers need no JAX."""

import numpy as np

LOG_SQUARE_BUCKETS = 64


def log_square_bin(x: np.ndarray) -> np.ndarray:
  """floor(ln(x^2 + 1)) in float32, -1 for NaN: 0 and +-1 -> 0, 2 -> 1, 3 -> 2, 10 -> 4, 1000 -> 13; the sign is lost.

  Any shape of numbers -> int32 of that shape, below LOG_SQUARE_BUCKETS for |x| < 7e13.
  """
  x = np.asarray(x, np.float32)
  with np.errstate(invalid='ignore'):
    bins = np.floor(np.log(x * x + np.float32(1)))
  return np.where(np.isnan(bins), -1, bins).astype(np.int32)


def signed_log(x: np.ndarray) -> np.ndarray:
  """sign(x) * ln(1 + |x|), float32; NaN stays NaN."""
  x = np.asarray(x, np.float32)
  return np.sign(x) * np.log1p(np.abs(x))


def quantile_edges(x: np.ndarray, buckets: int) -> np.ndarray:
  """The distinct inner edges that cut the finite values of `x` into at most `buckets` parts of like size, float64.

  Raises:
    ValueError: if there are fewer than two buckets or no finite value.
  """
  finite = np.asarray(x, np.float64)
  finite = finite[np.isfinite(finite)]
  if buckets < 2 or not finite.size:
    raise ValueError(f'{finite.size} finite values cannot be cut into {buckets} quantiles.')
  return np.unique(np.quantile(finite, np.arange(1, buckets) / buckets))


def quantile_bin(x: np.ndarray, edges: np.ndarray) -> np.ndarray:
  """Index of the part that each value falls in (edges belong to the part above), -1 for NaN; int32."""
  x = np.asarray(x, np.float64)
  return np.where(np.isnan(x), -1, np.searchsorted(edges, x, side='right')).astype(np.int32)
