"""Exact attribution of a logit to interaction orders, and to fields within an order. No sampling.

With linear activation the residual network is Z0 * prod_l (1 + G_l), each G_l linear in the embeddings. Expanding the
product gives the elementary symmetric polynomials e_0..e_L of (G_1..G_L): Z0 * e_j is homogeneous of degree j + 1, so
the logit is the bias plus one term per order 1..L+1.
"""

import chex
import jax
import jax.numpy as jnp

from jaxpapers.xdeepint.pin import layer_maps, split_sub_spaces


def elementary_symmetric(factors: jax.Array, axis: int) -> jax.Array:
  """e_0..e_L of L arrays, in O(L^2) products.

  Args:
    factors: L arrays along `axis`.
    axis: where they are.

  Returns:
    [L + 1, ...]: e_j of the other axes, e_0 = 1.
  """
  factors = jnp.moveaxis(factors, axis, 0)
  polynomials = jnp.zeros((factors.shape[0] + 1, *factors.shape[1:]), factors.dtype).at[0].set(1)

  def multiply(polynomials, factor):
    shifted = jnp.concatenate([jnp.zeros_like(polynomials[:1]), polynomials[:-1]])
    return polynomials + factor * shifted, None

  return jax.lax.scan(multiply, polynomials, factors)[0]


def field_contributions(x0: jax.Array, kernels: jax.Array, out_kernel: jax.Array, sub_spaces: int) -> jax.Array:
  """Splits every logit by order and by root field (the field whose embedding the layers multiply).

  Source: this library's own, from the polynomial form of the network.

  Args:
    x0: [batch, fields, K].
    kernels: [L, h * fields, h * fields] of a network with linear activation in residual form.
    out_kernel: [fields, 1].
    sub_spaces: h.

  Returns:
    [batch, L + 1, fields]; entry [b, j, f] is of degree j + 1 in the embeddings. With the bias K * c they sum to the
    logit.
  """
  chex.assert_rank(x0, 3)
  chex.assert_shape(out_kernel, (x0.shape[1], 1))
  batch, fields, _ = x0.shape
  z0 = split_sub_spaces(x0, sub_spaces)
  polynomials = elementary_symmetric(layer_maps(z0, kernels), axis=2)  # [L + 1, batch, m, rows]
  terms = polynomials * z0.swapaxes(1, 2)
  per_field = terms.reshape(*terms.shape[:3], sub_spaces, fields).sum(axis=(2, 3))  # [L + 1, batch, fields]
  return per_field.swapaxes(0, 1) * out_kernel[:, 0]


def order_contributions(x0: jax.Array, kernels: jax.Array, out_kernel: jax.Array, sub_spaces: int) -> jax.Array:
  """Splits every logit by interaction order; arguments as `field_contributions`.

  Source: this library's own, from the polynomial form of the network.

  Returns:
    [batch, L + 1]; column j is of degree j + 1. With the bias K * c they sum to the logit.
  """
  return field_contributions(x0, kernels, out_kernel, sub_spaces).sum(axis=2)
