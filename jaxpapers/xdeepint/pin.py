"""The polynomial interaction network: every layer multiplies by a linear map of the *original* embeddings.

With `Z0` the embeddings cut into h sub-spaces and `W_l` the kernel of layer l, the network is

    Z_L = Z0 * prod_l (1 + act(W_l^T Z0)),

so that depth is parallel: the L maps are one matrix product. (xDeepInt, arXiv 2301.01089; recursion as in the authors'
code.) Shapes: `batch`, `fields`, `K` embedding size, h sub-spaces of size m = K / h, `rows` = h * fields, L layers.
"""

import functools
import operator
from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp

Activation = Callable[[jax.Array], jax.Array]

ACTIVATIONS: dict[str, Activation] = {
  'linear': lambda x: x,
  'relu': jax.nn.relu,
  'tanh': jnp.tanh,
  'sigmoid': jax.nn.sigmoid,
}
OUTPUTS = ('product', 'concat', 'concat_by_layer', 'all_orders')


def activation(name: str) -> Activation:
  """The function called `name`: linear, relu, tanh or sigmoid.

  Raises:
    ValueError: for any other name.
  """
  if name not in ACTIVATIONS:
    raise ValueError(f'Activation {name!r} is not known; it is one of {", ".join(ACTIVATIONS)}.')
  return ACTIVATIONS[name]


def sub_space_size(embedding_size: int, sub_spaces: int) -> int:
  """Size m of a sub-space.

  Raises:
    ValueError: if the embedding size is no multiple of the number of sub-spaces.
  """
  if sub_spaces < 1 or embedding_size % sub_spaces:
    divisors = [d for d in range(1, embedding_size + 1) if embedding_size % d == 0]
    raise ValueError(
      f'embedding_size={embedding_size} cannot be cut into sub_spaces={sub_spaces}; '
      f'sub_spaces must be one of {", ".join(map(str, divisors))}.'
    )
  return embedding_size // sub_spaces


def output_rows(fields: int, layers: int, output: str = 'product') -> int:
  """Rows R of the block's output, thus of the output weights.

  Raises:
    ValueError: for an unknown form of output.
  """
  if output not in OUTPUTS:
    raise ValueError(f'The output {output!r} is not known; it is one of {", ".join(OUTPUTS)}.')
  return fields if output == 'product' else (layers + 1) * fields


def split_sub_spaces(x: jax.Array, sub_spaces: int) -> jax.Array:
  """Cuts the embedding axis into consecutive pieces and stacks them on the field axis, sub-space-major.

  Source: the paper's sub-spaces, in the order of the authors' code.

  Args:
    x: [batch, fields, K].
    sub_spaces: h, a divisor of K.

  Returns:
    [batch, h * fields, K / h]; row s * fields + f is x[:, f, s * m : (s + 1) * m].
  """
  chex.assert_rank(x, 3)
  batch, fields, size = x.shape
  m = sub_space_size(size, sub_spaces)
  return x.reshape(batch, fields, sub_spaces, m).swapaxes(1, 2).reshape(batch, sub_spaces * fields, m)


def combine_sub_spaces(z: jax.Array, sub_spaces: int) -> jax.Array:
  """Inverse of `split_sub_spaces`: cuts the rows into h equal blocks and joins them on the embedding axis.

  Source: the authors' code.

  Args:
    z: [batch, rows, m], rows a multiple of h.
    sub_spaces: h.

  Returns:
    [batch, rows / h, h * m].
  """
  chex.assert_rank(z, 3)
  batch, rows, m = z.shape
  return z.reshape(batch, sub_spaces, rows // sub_spaces, m).swapaxes(1, 2).reshape(batch, -1, sub_spaces * m)


def _dropped(x: jax.Array, rates: Sequence[float], key: jax.Array) -> jax.Array:
  """[L, *x.shape]: `x` under an independent inverted dropout of each rate."""
  keep = 1.0 - jnp.asarray(rates, x.dtype).reshape(-1, *[1] * x.ndim)
  mask = jax.random.uniform(key, (len(rates), *x.shape), x.dtype) < keep
  return jnp.where(mask, x / keep, 0)


def layer_maps(
  z0: jax.Array,
  kernels: jax.Array,
  act: Activation = ACTIVATIONS['linear'],
  *,
  dropout: Sequence[float] = (),
  key: jax.Array | None = None,
  dtype: jax.typing.DTypeLike | None = None,
) -> jax.Array:
  """G_l = act(W_l^T Z0) for all layers in one matrix product.

  Args:
    z0: [batch, rows, m].
    kernels: [L, rows, rows], (in, out).
    act: element-wise, before the 1 of the residual form is added.
    dropout: a rate per layer, or () for none.
    key: randomness of the dropout; None in evaluation.
    dtype: precision of the matrix product; the result is in z0's dtype, since products of L factors grow fast.

  Returns:
    [batch, m, L, rows]: the layout that the product leaves, rows contiguous.
  """
  chex.assert_shape(kernels, (None, z0.shape[1], z0.shape[1]))
  compute = jnp.dtype(dtype or z0.dtype)
  # On accelerators the default precision of a float32 product is a lower one.
  precision = None if compute == jnp.bfloat16 else jax.lax.Precision.HIGHEST
  layers, rows, _ = kernels.shape
  transposed = z0.swapaxes(1, 2)
  if key is not None and any(dropout):
    if len(dropout) != layers:
      raise ValueError(f'dropout holds {len(dropout)} rates for {layers} layers.')
    inputs = _dropped(transposed, dropout, key).astype(compute)
    maps = jnp.einsum('lbmi,lij->bmlj', inputs, kernels.astype(compute), precision=precision)
  else:
    fused = kernels.astype(compute).swapaxes(0, 1).reshape(rows, layers * rows)
    maps = jnp.dot(transposed.astype(compute), fused, precision=precision)
    maps = maps.reshape(*transposed.shape[:2], layers, rows)
  return act(maps.astype(z0.dtype))


def pin(
  x0: jax.Array,
  kernels: jax.Array,
  sub_spaces: int,
  act: Activation = ACTIVATIONS['linear'],
  *,
  output: str = 'product',
  dropout: Sequence[float] = (),
  key: jax.Array | None = None,
  dtype: jax.typing.DTypeLike | None = None,
) -> jax.Array:
  """The polynomial interaction block.

  Args:
    x0: embeddings [batch, fields, K].
    kernels: [L, h * fields, h * fields], (in, out), rows sub-space-major; L = 0 gives x0.
    sub_spaces: h; 1 is vector-wise, K is bit-wise.
    act: activation of a layer's map.
    output: 'product' (the published residual form), [batch, fields, K]; or, each [batch, (L + 1) * fields, K]:
      'concat' (the published non-residual form: Z_l = Z_{l-1} * G_l, all Z_l stacked before the sub-spaces are joined,
      so that with h > 1 an output row holds pieces of different layers), 'concat_by_layer' (the same Z_l, each joined
      first), 'all_orders' (the residual form after 0, 1, ..., L layers).
    dropout: a rate per layer, or ().
    key: randomness of the dropout; None in evaluation.
    dtype: precision of the matrix product.

  Returns:
    [batch, output_rows(fields, L, output), K], dtype of x0.

  Raises:
    ValueError: if K is no multiple of h, the output is unknown or the kernels' shape is not that of these fields.
  """
  chex.assert_rank(x0, 3)
  batch, fields, size = x0.shape
  m = sub_space_size(size, sub_spaces)
  output_rows(fields, 0, output)
  if kernels.ndim != 3 or kernels.shape[1:] != (sub_spaces * fields,) * 2:
    raise ValueError(
      f'kernels have shape {kernels.shape}; {fields} fields in {sub_spaces} sub-spaces need '
      f'[layers, {sub_spaces * fields}, {sub_spaces * fields}].'
    )
  z0 = split_sub_spaces(x0, sub_spaces)
  maps = layer_maps(z0, kernels, act, dropout=dropout, key=key, dtype=dtype)  # [batch, m, L, rows]
  start = z0.swapaxes(1, 2)
  if output == 'product':
    # Factor by factor: the gradient of jnp.prod is far slower than that of L products.
    product = functools.reduce(operator.mul, jnp.unstack(1.0 + maps, axis=2), start)
    return product.reshape(batch, m, sub_spaces, fields).transpose(0, 3, 2, 1).reshape(batch, fields, size)
  factors = 1.0 + maps if output == 'all_orders' else maps
  prefixes = jnp.cumprod(jnp.concatenate([start[:, :, None], factors], axis=2), axis=2)  # [batch, m, L + 1, rows]
  if output == 'concat':
    return combine_sub_spaces(prefixes.reshape(batch, m, -1).swapaxes(1, 2), sub_spaces)
  by_layer = prefixes.reshape(batch, m, -1, sub_spaces, fields).transpose(0, 2, 4, 3, 1)
  return by_layer.reshape(batch, -1, size)


def output_logits(block: jax.Array, out_kernel: jax.Array, out_bias: jax.Array) -> jax.Array:
  """logit = sum_k (sum_r w_r P[r, k] + c): the scalar bias counts once per coordinate, K times in all.

  Source: the output layer of the authors' code.

  Args:
    block: P, [batch, R, K].
    out_kernel: w, [R, 1].
    out_bias: c, [1].

  Returns:
    [batch].
  """
  chex.assert_shape(out_kernel, (block.shape[1], 1))
  chex.assert_shape(out_bias, (1,))
  return block.sum(axis=2) @ out_kernel[:, 0] + block.shape[2] * out_bias[0]


def multi_head_pin(
  x0: jax.Array,
  projection: jax.Array,
  kernels: Sequence[jax.Array],
  sub_spaces: Sequence[int],
  acts: Sequence[Activation],
) -> jax.Array:
  """Projects the embeddings, cuts them into heads, and gives every head a network of its own (residual form).

  Source: the authors' code, whose model does not use it.

  Args:
    x0: [batch, fields, K].
    projection: [K, H], without bias.
    kernels: a head's kernels [L_i, h_i * fields, h_i * fields], one entry per head; their number divides H.
    sub_spaces: h_i, one per head.
    acts: an activation per head.

  Returns:
    [batch, heads * fields, H / heads]: heads are joined on the field axis.

  Raises:
    ValueError: if the number of heads does not divide H, or the sequences differ in length.
  """
  heads, hidden = len(kernels), projection.shape[1]
  if not heads == len(sub_spaces) == len(acts) or hidden % heads:
    raise ValueError(
      f'{heads} kernels, {len(sub_spaces)} sub_spaces, {len(acts)} activations and hidden size {hidden} do not fit: '
      f'one of each per head, and the number of heads must divide the hidden size.'
    )
  hidden_states = jnp.dot(x0, projection, precision=jax.lax.Precision.HIGHEST)
  parts = jnp.split(hidden_states, heads, axis=2)
  return jnp.concatenate([pin(x, w, h, act) for x, w, h, act in zip(parts, kernels, sub_spaces, acts, strict=True)], 1)


def lift_kernel(kernel: jax.Array, fields: int, size: int) -> jax.Array:
  """The bit-wise kernel (h = K) that gives the same outputs as a kernel of fewer sub-spaces.

  Source: this library's own.

  Args:
    kernel: [h * fields, h * fields].
    fields: number of fields.
    size: embedding size K, a multiple of h.

  Returns:
    [K * fields, K * fields]; entry ((s, d, f), (s', d', f')) is kernel[(s, f), (s', f')] where d = d', else 0.
  """
  h = kernel.shape[0] // fields
  m = sub_space_size(size, h)
  blocks = kernel.reshape(h, fields, h, fields)
  lifted = jnp.einsum('sftg,de->sdfteg', blocks, jnp.eye(m, dtype=kernel.dtype))
  return lifted.reshape(size * fields, size * fields)
