import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpapers.layers.conv import Conv, DepthwiseConv, chunked, conv, depthwise_conv, torch_uniform


def _close(got, want, tolerance=1e-5):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert a.shape == b.shape
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert np.abs(a - b).max(initial=0) <= tolerance * max(np.abs(b).max(initial=0), 1e-3)


def _value_and_gradients(implementation, stride, x, kernel):
  y, vjp = jax.vjp(lambda x, k: depthwise_conv(x, k, stride, None, implementation), x, kernel)
  return y, vjp(jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape).astype(y.dtype))


def _reference(x, kernel, stride, padding, gradient):
  """Value and both gradients by the definition, in float64."""
  k = kernel.shape[0]
  x = np.pad(x.astype(np.float64), ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)))
  height, width = ((n - k) // stride + 1 for n in x.shape[1:3])
  y, dx, dk = np.zeros((len(x), height, width, x.shape[3])), np.zeros_like(x), np.zeros(kernel.shape)
  for i, j in itertools.product(range(k), range(k)):
    where = np.s_[:, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]
    y += x[where] * kernel[i, j]
    if gradient is not None:
      dx[where] += gradient * kernel[i, j]
      dk[i, j] = (x[where] * gradient).sum((0, 1, 2))
  inner = np.s_[:, padding : x.shape[1] - padding, padding : x.shape[2] - padding]
  return y, dx[inner], dk


@pytest.mark.parametrize(('kernel_size', 'stride'), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_shifted_equals_definition_at_every_size(kernel_size, stride):
  rng = np.random.default_rng(0)
  kernel = rng.normal(size=(kernel_size, kernel_size, 3)).astype(np.float32)
  for size in range(1, 16):  # both axes take every size, in different pairs
    other = 1 + (7 * size + 3) % 15
    x = rng.normal(size=(2, size, other, 3)).astype(np.float32)
    want = _reference(x, kernel, stride, kernel_size // 2, None)[0]
    gradient = np.sin(np.arange(want.size)).reshape(want.shape)
    want, dx, dk = _reference(x, kernel, stride, kernel_size // 2, gradient)
    run = jax.jit(functools.partial(_value_and_gradients, 'shifted', stride))
    _close(run(x, kernel), (want, (dx, dk)))


@pytest.mark.parametrize(('kernel_size', 'stride', 'size'), [(3, 2, (15, 8)), (5, 1, (7, 9)), (5, 2, (4, 11))])
def test_all_implementations_agree(kernel_size, stride, size):
  rng = np.random.default_rng(1)
  x = rng.normal(size=(2, *size, 4)).astype(np.float32)
  kernel = rng.normal(size=(kernel_size, kernel_size, 4)).astype(np.float32)
  native, shifted, auto = (
    jax.jit(functools.partial(_value_and_gradients, name, stride))(x, kernel) for name in ('native', 'shifted', 'auto')
  )
  _close(shifted, native)
  _close(auto, native)


def test_large_strided_images_take_the_loop_and_agree():
  rng = np.random.default_rng(2)
  x = rng.normal(size=(2, 64, 64, 40)).astype(np.float32)  # above LARGE_IMAGE
  kernel = rng.normal(size=(3, 3, 40)).astype(np.float32)
  want = _reference(x, kernel, 2, 1, None)[0]
  _close(jax.jit(functools.partial(depthwise_conv, stride=2, implementation='shifted'))(x, kernel), want)


def test_bfloat16_is_finite_and_near():
  rng = np.random.default_rng(3)
  x, kernel = rng.normal(size=(2, 9, 8, 16)), rng.normal(size=(3, 3, 16))
  low = _value_and_gradients('shifted', 2, jnp.asarray(x, jnp.bfloat16), jnp.asarray(kernel, jnp.bfloat16))
  high = _value_and_gradients('shifted', 2, jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32))
  assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(low))
  _close(low, high, 5e-2)


def test_second_order_gradients_and_vmap():
  rng = np.random.default_rng(4)
  x, kernel = (
    jnp.asarray(rng.normal(size=(1, 5, 4, 2)), jnp.float32),
    jnp.asarray(rng.normal(size=(3, 3, 2)), jnp.float32),
  )

  def penalty(implementation, kernel):
    inner = jax.grad(lambda x: jnp.sum(depthwise_conv(x, kernel, 2, None, implementation) ** 3))
    return jnp.sum(inner(x) ** 2)

  _close(
    jax.grad(functools.partial(penalty, 'shifted'))(kernel), jax.grad(functools.partial(penalty, 'native'))(kernel)
  )
  kernels = jnp.stack([kernel, -2 * kernel])
  got = jax.vmap(lambda k: depthwise_conv(x, k))(kernels)
  _close(got[1], -2 * got[0])


@pytest.mark.parametrize(
  ('size', 'kernel_size', 'stride', 'dilation', 'groups'),
  [
    (2, 3, 1, 1, 1),
    (4, 3, 2, 1, 1),
    (4, 3, 1, 2, 1),
    (9, 3, 2, 1, 1),
    (5, 1, 1, 1, 1),
    (5, 1, 2, 1, 2),
    (6, 3, 1, 1, 2),
    (6, 3, 1, 6, 1),
    (6, 3, 1, 5, 1),
    (5, 3, 2, 7, 2),
  ],
)
def test_conv_equals_the_native_convolution(size, kernel_size, stride, dilation, groups):
  rng = np.random.default_rng(5)
  x = rng.normal(size=(2, size, size, 4)).astype(np.float32)
  kernel = rng.normal(size=(kernel_size, kernel_size, 4 // groups, 6)).astype(np.float32)
  padding = dilation * (kernel_size - 1) // 2
  want = jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    ((padding, padding),) * 2,
    rhs_dilation=(dilation, dilation),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )
  _close(conv(x, kernel, stride, dilation=dilation, groups=groups), want)


def test_parameters_start_like_pytorch():
  x = jnp.zeros((1, 8, 8, 16))
  params = Conv(64, 3).init(jax.random.key(0), x)['params']
  assert params['kernel'].shape == (3, 3, 16, 64) and params['bias'].shape == (64,)
  bound = 1 / np.sqrt(9 * 16)
  assert 0.99 * bound < np.abs(params['kernel']).max() <= bound
  kernel = DepthwiseConv(5).init(jax.random.key(0), x)['params']['kernel']
  assert kernel.shape == (5, 5, 16) and 0.95 / 5 < np.abs(kernel).max() <= 1 / 5
  assert np.isclose(torch_uniform(4)(jax.random.key(1), (10_000,)).std(), 0.5 / np.sqrt(3), rtol=0.02)


def test_bad_arguments_are_named():
  x, kernel = jnp.zeros((1, 4, 4, 3)), jnp.zeros((3, 3, 3))
  with pytest.raises(ValueError, match='fast'):
    depthwise_conv(x, kernel, implementation='fast')
  with pytest.raises(ValueError, match='3 channels'):
    depthwise_conv(x, jnp.zeros((3, 3, 2)))
  with pytest.raises(ValueError, match='shape'):
    depthwise_conv(x[0], kernel)
  with pytest.raises(ValueError, match='smaller than the kernel'):
    depthwise_conv(x[:, :1], kernel, padding=0)
  with pytest.raises(ValueError, match='groups'):
    Conv(4, groups=2).init(jax.random.key(0), x)


@pytest.mark.parametrize('chunk', [1, 2, 3, 8])
def test_chunks_change_nothing(chunk):
  x = jnp.arange(15.0).reshape(5, 3)

  def function(x):
    return {'double': 2 * x, 'sum': x.sum(1)}

  got, want = chunked(function, chunk)(x), function(x)
  assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()) and a.shape == b.shape, got, want))
