"""Depthwise convolution as sums of shifted products, for backends whose grouped convolution is slow (XLA on CPU)."""

import jax
import jax.numpy as jnp

LARGE_IMAGE = 1 << 17  # values in one padded image above which a strided pass goes image by image, to stay in cache


def _output(size: int, kernel_size: int, stride: int, padding: int) -> int:
  return (size + 2 * padding - kernel_size) // stride + 1


def _pad(x, before, after):
  return jnp.pad(x, ((0, 0), (before[0], after[0]), (before[1], after[1]), (0, 0)))


def _phases(x, rows, columns, stride, padding):
  """Pads and splits both axes into (position, phase) so that every tap is a slice of unit stride.

  Returns [batch, m, stride, n, stride, channels], and the output size.
  """
  batch, height, width, channels = x.shape
  out = _output(height, rows, stride, padding), _output(width, columns, stride, padding)
  m, n = (out[0] - 1 + -(-rows // stride)), (out[1] - 1 + -(-columns // stride))
  after = m * stride - height - padding, n * stride - width - padding
  # A negative amount crops what no tap reads (a last row that a stride steps over).
  x = jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (padding, after[0], 0), (padding, after[1], 0), (0, 0, 0)))
  return x.reshape(batch, m, stride, n, stride, channels), out


def _tap(phases, i, j, stride, size):
  """What tap (i, j) of the kernel meets: [batch, *size, channels]."""
  a, b = i // stride, j // stride
  return phases[:, a : a + size[0], i % stride, b : b + size[1], j % stride]


def shifted_depthwise(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
  """[batch, height, width, channels] with [rows, columns, channels] -> [batch, height', width', channels]."""
  rows, columns = kernel.shape[:2]

  def images(x):
    phases, size = _phases(x, rows, columns, stride, padding)
    return sum(_tap(phases, i, j, stride, size) * kernel[i, j] for i in range(rows) for j in range(columns))

  if stride > 1 and x[0].size > LARGE_IMAGE:
    return jax.lax.map(lambda image: images(image[None])[0], x)
  return images(x)


def shifted_depthwise_vjp(
  x: jax.Array, kernel: jax.Array, gradient: jax.Array, stride: int, padding: int
) -> tuple[jax.Array, jax.Array]:
  """Gradients of `shifted_depthwise` with respect to x and the kernel, from that of its result."""
  return _input_gradient(x, kernel, gradient, stride, padding), _kernel_gradient(x, kernel, gradient, stride, padding)


def _input_gradient(x, kernel, gradient, stride, padding):
  """Every phase of the padded input gets its own taps from the undilated gradient; the phases are then interleaved."""
  batch, height, width, channels = x.shape
  rows, columns = kernel.shape[:2]
  out = gradient.shape[1:3]
  m, n = (out[0] - 1 + -(-rows // stride)), (out[1] - 1 + -(-columns // stride))
  reach = (rows - 1) // stride, (columns - 1) // stride
  padded = _pad(gradient, reach, (m - out[0], n - out[1]))

  def phase(a, b):
    taps = [
      padded[:, reach[0] - i // stride :, reach[1] - j // stride :][:, :m, :n] * kernel[i, j]
      for i in range(a, rows, stride)
      for j in range(b, columns, stride)
    ]
    return sum(taps) if taps else jnp.zeros((batch, m, n, channels), x.dtype)

  if stride == 1:
    whole = phase(0, 0)
  else:
    lines = [jnp.stack([phase(a, b) for b in range(stride)], axis=3) for a in range(stride)]
    whole = jnp.stack(lines, axis=2).reshape(batch, m * stride, n * stride, channels)
  after = height + padding - m * stride, width + padding - n * stride
  zero = jnp.zeros((), x.dtype)
  return jax.lax.pad(whole, zero, ((0, 0, 0), (-padding, after[0], 0), (-padding, after[1], 0), (0, 0, 0)))


def _kernel_gradient(x, kernel, gradient, stride, padding):
  """Elementwise sums per tap over the images, summed over space at the end, so that channels stay the vector loop."""
  rows, columns, channels = kernel.shape
  height, width = gradient.shape[1:3]

  def image(sums, pair):
    one, gradient = pair
    phases, _ = _phases(one[None], rows, columns, stride, padding)
    gradient = gradient.astype(jnp.float32)
    taps = [_tap(phases, i, j, stride, (height, width))[0] for i in range(rows) for j in range(columns)]
    products = [tap * gradient for tap in taps]
    return [s + p for s, p in zip(sums, products, strict=True)], None

  zeros = [jnp.zeros((height, width, channels), jnp.float32)] * (rows * columns)
  sums, _ = jax.lax.scan(image, zeros, (x, gradient))
  return jnp.stack([s.sum((0, 1)) for s in sums]).reshape(rows, columns, channels).astype(kernel.dtype)
