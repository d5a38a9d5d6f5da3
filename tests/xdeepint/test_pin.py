"""The interaction network: exact claims, in float64 and float32."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxpapers.xdeepint import orders
from jaxpapers.xdeepint.model import MultiHeadPin, PinHead, parameter_count
from jaxpapers.xdeepint.pin import (
  activation,
  combine_sub_spaces,
  lift_kernel,
  output_logits,
  output_rows,
  pin,
  split_sub_spaces,
)

DTYPES = [(np.float64, 1e-12), (np.float32, 1e-5)]


@pytest.fixture(params=DTYPES, ids=['float64', 'float32'])
def precision(request):
  dtype, tolerance = request.param
  with jax.enable_x64(dtype == np.float64):
    yield dtype, tolerance


def draw(dtype, batch=7, fields=4, size=8, layers=3, h=2, rows=None, seed=0):
  rng = np.random.default_rng(seed)
  x0 = rng.normal(size=(batch, fields, size)) * 0.5
  kernels = rng.normal(size=(layers, h * fields, h * fields)) * 0.3
  out_kernel = rng.normal(size=(rows or fields, 1))
  return [jnp.asarray(x, dtype) for x in (x0, kernels, out_kernel, rng.normal(size=1))]


def close(got, want, tolerance):
  want = np.asarray(want, np.float64)
  assert np.max(np.abs(np.asarray(got, np.float64) - want)) <= tolerance * max(1.0, np.max(np.abs(want)))


def by_loops(x0, kernels, h):
  """The recursion Z_l = Z_{l-1} * (1 + W_l^T Z0), one number at a time, in float64."""
  batch, fields, size = x0.shape
  m = size // h
  out = np.empty((batch, fields, size))
  for b, s, f, c in itertools.product(range(batch), range(h), range(fields), range(m)):
    value = x0[b, f, s * m + c]
    for kernel in kernels:
      total = sum(kernel[t * fields + g, s * fields + f] * x0[b, g, t * m + c] for t in range(h) for g in range(fields))
      value *= 1.0 + total
    out[b, f, s * m + c] = value
  return out


@pytest.mark.parametrize('h', [1, 2, 8])
def test_equals_the_recursion_by_loops(precision, h):
  dtype, tolerance = precision
  x0, kernels, *_ = draw(dtype, batch=3, h=h)
  close(pin(x0, kernels, h), by_loops(np.asarray(x0, np.float64), np.asarray(kernels, np.float64), h), tolerance)


@pytest.mark.parametrize('h', [1, 2, 8])
def test_the_logit_is_a_polynomial_of_degree_layers_plus_one(h):
  with jax.enable_x64(True):
    x0, kernels, w, c = draw(np.float64, h=h, layers=3)
    t = np.linspace(-1.0, 1.0, 9)
    logits = np.stack([output_logits(pin(s * x0, kernels, h), w, c) for s in t])
    low = np.polynomial.chebyshev.chebfit(t, logits, 8)
    assert np.abs(low[5:]).max() < 1e-12 < np.abs(low[4]).max()
    at_zero = output_logits(pin(0.0 * x0, kernels, h), w, c)
    np.testing.assert_allclose(at_zero, np.full(7, 8 * float(c[0])), rtol=1e-14)


@pytest.mark.parametrize('h', [1, 4])
def test_order_contributions_sum_to_the_logit_and_are_homogeneous(precision, h):
  dtype, tolerance = precision
  x0, kernels, w, c = draw(dtype, h=h)
  parts = orders.order_contributions(x0, kernels, w, h)
  assert parts.shape == (7, 4)
  close(parts.sum(axis=1) + 8 * c[0], output_logits(pin(x0, kernels, h), w, c), tolerance)
  close(
    orders.order_contributions(2 * x0, kernels, w, h), np.asarray(parts, np.float64) * 2.0 ** np.arange(1, 5), tolerance
  )


def test_elementary_symmetric_polynomials():
  got = orders.elementary_symmetric(jnp.asarray([2.0, 3.0, 5.0]), axis=0)
  assert got.tolist() == [1.0, 10.0, 31.0, 30.0]


@pytest.mark.parametrize('h', [1, 2, 4])
def test_a_kernel_lifts_to_bit_wise_kernels(precision, h):
  dtype, tolerance = precision
  x0, kernels, *_ = draw(dtype, h=h)
  lifted = jnp.stack([lift_kernel(k, 4, 8) for k in kernels])
  close(pin(x0, lifted, 8), pin(x0, kernels, h), tolerance)


def test_layers_commute(precision):
  dtype, tolerance = precision
  x0, kernels, *_ = draw(dtype)
  close(pin(x0, kernels[np.array([2, 0, 1])], 2), pin(x0, kernels, 2), tolerance)


def test_one_bit_wise_layer_is_a_cross_layer_without_bias(precision):
  dtype, tolerance = precision
  x0, kernels, *_ = draw(dtype, layers=1, h=8)
  flat = np.asarray(split_sub_spaces(x0, 8))[:, :, 0].astype(np.float64)
  crossed = flat * (flat @ np.asarray(kernels[0], np.float64)) + flat
  close(split_sub_spaces(pin(x0, kernels, 8), 8)[:, :, 0], crossed, tolerance)


def test_without_layers_the_model_is_linear_in_the_embeddings(precision):
  dtype, tolerance = precision
  x0, _, w, c = draw(dtype)
  logits = output_logits(pin(x0, jnp.zeros((0, 8, 8), dtype), 2), w, c)
  close(logits, np.einsum('bfk,f->b', x0, w[:, 0]) + 8 * float(c[0]), tolerance)


def test_permuting_fields_everywhere_changes_nothing(precision):
  dtype, tolerance = precision
  x0, kernels, w, c = draw(dtype)
  order = np.array([2, 0, 3, 1])
  index = np.concatenate([order, 4 + order])
  moved = pin(x0[:, order], kernels[:, index][:, :, index], 2)
  close(output_logits(moved, w[order], c), output_logits(pin(x0, kernels, 2), w, c), tolerance)


@pytest.mark.parametrize('output', ['product', 'concat', 'concat_by_layer', 'all_orders'])
@pytest.mark.parametrize('act', ['linear', 'relu', 'tanh', 'sigmoid'])
def test_gradients_are_right(output, act):
  with jax.enable_x64(True):
    x0, kernels, w, c = draw(np.float64, batch=2, fields=3, size=4, layers=2, rows=output_rows(3, 2, output))
    check_grads(
      lambda *p: output_logits(pin(p[0], p[1], 2, activation(act), output=output), p[2], p[3]).sum(),
      (x0, kernels, w, c),
      order=1,
      modes=['rev'],
    )


def test_the_forms_of_output_agree_where_they_must():
  x0, kernels, *_ = draw(np.float32)
  stacked = pin(x0, kernels, 2, output='all_orders').reshape(7, 4, 4, 8)
  np.testing.assert_array_equal(stacked[:, 0], x0)
  np.testing.assert_allclose(stacked[:, -1], pin(x0, kernels, 2), rtol=1e-5, atol=1e-6)
  one = kernels[:, :4, :4]
  np.testing.assert_allclose(pin(x0, one, 1, output='concat'), pin(x0, one, 1, output='concat_by_layer'), rtol=1e-6)
  layers = pin(x0, kernels, 2, output='concat_by_layer').reshape(7, 4, 4, 8)
  maps = pin(x0, kernels[:1], 2) - x0  # x0 * G_1
  np.testing.assert_allclose(layers[:, 1], maps, rtol=1e-4, atol=1e-6)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_split_and_combine_are_inverse(batch, fields, h):
  x = jnp.arange(batch * fields * 12, dtype=jnp.float32).reshape(batch, fields, 12)
  z = split_sub_spaces(x, h)
  assert z.shape == (batch, h * fields, 12 // h)
  np.testing.assert_array_equal(combine_sub_spaces(z, h), x)
  np.testing.assert_array_equal(z[:, (h - 1) * fields :], x[:, :, 12 - 12 // h :])


def test_dropout_is_off_in_evaluation_and_unbiased_in_training():
  x0, kernels, *_ = draw(np.float32, batch=2, layers=1)
  calm = pin(x0, kernels, 2, dropout=(0.5,))
  np.testing.assert_array_equal(calm, pin(x0, kernels, 2))
  keys = jax.random.split(jax.random.key(0), 4000)
  noisy = jax.vmap(lambda key: pin(x0, kernels, 2, dropout=(0.5,), key=key))(keys)
  assert float(jnp.std(noisy[:, 0, 0, 0])) > 0
  np.testing.assert_allclose(noisy.mean(axis=0), calm, atol=0.06)


def test_bfloat16_product_stays_close():
  x0, kernels, *_ = draw(np.float32)
  half = pin(x0, kernels, 2, dtype=jnp.bfloat16)
  assert half.dtype == jnp.float32
  np.testing.assert_allclose(half, pin(x0, kernels, 2), rtol=0.1, atol=0.05)


def test_bad_arguments_are_named():
  x0, kernels, *_ = draw(np.float32)
  with pytest.raises(ValueError, match='embedding_size=8.*sub_spaces=3.*1, 2, 4, 8'):
    pin(x0, kernels, 3)
  with pytest.raises(ValueError, match='kernels have shape'):
    pin(x0, kernels[:, :4], 2)
  with pytest.raises(ValueError, match="'gelu'"):
    activation('gelu')
  with pytest.raises(ValueError, match="'concatenate'"):
    pin(x0, kernels, 2, output='concatenate')
  with pytest.raises(ValueError, match='dropout'):
    PinHead(2, 2, dropout=(0.1,)).check(8)


def test_parameter_counts_of_the_published_models():
  assert parameter_count(38, 4, 16) == 1_478_695
  assert parameter_count(39, 4, 16) == 1_557_544
  assert parameter_count(21, 2, 4) == 14_134
  assert parameter_count(16, 2, 1) == 529
  params = jax.eval_shape(PinHead(2, 4).init, jax.random.key(0), jnp.zeros((1, 21, 16)))
  assert sum(x.size for x in jax.tree.leaves(params)) == 14_134


def test_multi_head_module():
  model = MultiHeadPin(12, (1, 2), (1, 3), ('linear', 'relu'))
  x0 = draw(np.float32)[0]
  out, variables = jax.eval_shape(lambda key: model.init_with_output(key, x0), jax.random.key(0))
  assert out.shape == (7, 8, 6)
  assert variables['params']['kernels_1'].shape == (2, 12, 12)
