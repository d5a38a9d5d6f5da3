import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpapers.ops import resize


def bilinear_reference(x, size):
  """float64, pixel by pixel: half-pixel centres, clamped at the border."""
  height, width = x.shape[1:3]
  result = np.zeros((x.shape[0], *size, x.shape[3]))
  for i in range(size[0]):
    for j in range(size[1]):
      y = min(max((i + 0.5) * height / size[0] - 0.5, 0), height - 1)
      z = min(max((j + 0.5) * width / size[1] - 0.5, 0), width - 1)
      y0, z0 = int(y), int(z)
      y1, z1 = min(y0 + 1, height - 1), min(z0 + 1, width - 1)
      top = x[:, y0, z0] * (1 - (z - z0)) + x[:, y0, z1] * (z - z0)
      low = x[:, y1, z0] * (1 - (z - z0)) + x[:, y1, z1] * (z - z0)
      result[:, i, j] = top * (1 - (y - y0)) + low * (y - y0)
  return result


@pytest.mark.parametrize('size', [(7, 9), (2, 3), (1, 1), (4, 5), (12, 3)])
def test_bilinear_and_its_matrix_equal_reference(size):
  x = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
  want = bilinear_reference(x.astype(np.float64), size)
  np.testing.assert_allclose(resize.bilinear(x, size), want, atol=1e-5)
  rows, columns = resize.bilinear_matrix(4, size[0]), resize.bilinear_matrix(5, size[1])
  np.testing.assert_allclose(np.einsum('ih,bhwc,jw->bijc', rows, x, columns), want, atol=1e-5)


@settings(deadline=None, max_examples=8)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 7))
def test_adaptive_mean_equals_bins(height, width, count):
  x = np.random.default_rng(height).normal(size=(1, height, width, 2)).astype(np.float32)
  got = np.asarray(resize.adaptive_mean(x, (count, count)))
  for i in range(count):
    for j in range(count):
      rows = slice(i * height // count, -(-(i + 1) * height // count))
      columns = slice(j * width // count, -(-(j + 1) * width // count))
      np.testing.assert_allclose(got[0, i, j], x[0, rows, columns].mean((0, 1)), atol=1e-5)


def test_nearest_repeats_pixels():
  x = np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1)
  np.testing.assert_array_equal(resize.nearest(x, (4, 6))[0, ..., 0], np.kron(x[0, ..., 0], np.ones((2, 2))))
  np.testing.assert_array_equal(resize.nearest(x, (3, 5))[0, ..., 0], x[0, ..., 0][[0, 0, 1]][:, [0, 0, 1, 1, 2]])
