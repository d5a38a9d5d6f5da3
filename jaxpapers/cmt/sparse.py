"""Sparse 3-D convolution by gathering, in static shapes (SECOND; Graham et al., submanifold sparse convolutions).

The active sites of a grid are a sorted list of linear ids; a table holds the row of every site's neighbours, and all
convolutions on the same sites share it. Each convolution is then rows of a table gathered and one matmul.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.layers.conv import conv_output_size

Shape = Sequence[int]  # (z, y, x)
BLOCKS = {'cpu': 1024, 'default': 16_384}
"""Rows at a time: what a CPU's cache holds; elsewhere few, large products."""


class Neighbours(NamedTuple):
  """Which input row meets which tap of the kernel at which output row.

  Attributes:
    table: [batch, outputs, taps] int32, input rows; `inputs` (one past the last) where no site is active.
    inverse: [batch, inputs, taps] int32, the output row whose tap sees this input; `outputs` where there is none.
    used_outputs: int32, rows that any example of the batch uses; later ones are empty.
    used_inputs: int32, likewise.
  """

  table: jax.Array
  inverse: jax.Array
  used_outputs: jax.Array
  used_inputs: jax.Array


def linear_ids(coords: jax.Array, shape: Shape) -> jax.Array:
  """(z, y, x) [..., 3] int32 -> (z Y + y) X + x, or the number of cells for coordinates outside the grid."""
  z, y, x = jnp.moveaxis(coords, -1, 0)
  inside = jnp.all((coords >= 0) & (coords < jnp.asarray(shape)), -1)
  return jnp.where(inside, (z * shape[1] + y) * shape[2] + x, math.prod(shape))


def coordinates(ids: jax.Array, shape: Shape) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Inverse of `linear_ids`: z, y, x; for the id of no site, z = Z, outside the grid."""
  return ids // (shape[1] * shape[2]), ids // shape[2] % shape[1], ids % shape[2]


def strided_shape(shape: Shape, kernel: Shape, stride: Shape, padding: Shape) -> tuple[int, int, int]:
  """Grid of the outputs of a strided convolution."""
  return tuple(conv_output_size(n, k, s, p) for n, k, s, p in zip(shape, kernel, stride, padding, strict=True))


def strided_sites(
  ids: jax.Array, shape: Shape, kernel: Shape, stride: Shape, padding: Shape, capacity: int
) -> tuple[jax.Array, jax.Array]:
  """Sites whose window touches an active site.

  Args:
    ids: [batch, n] int32, sorted; the number of cells marks unused rows.
    shape: grid of `ids`.
    kernel: taps along z, y, x.
    stride: along z, y, x.
    padding: along z, y, x.
    capacity: rows of the result.

  Returns:
    ([batch, capacity] int32, sorted ids in `strided_shape`; [batch] int32, sites that there are, which may be more).
  """
  target = strided_shape(shape, kernel, stride, padding)
  nowhere = math.prod(target)
  options = [-(-k // s) for k, s in zip(kernel, stride, strict=True)]
  site, fits = 0, (ids < math.prod(shape))[:, None]
  for axis, place in enumerate(coordinates(ids, shape)):
    k, s, p = kernel[axis], stride[axis], padding[axis]
    back = np.indices(options)[axis].reshape(-1, 1)
    out = ((place + p) // s)[:, None] - back  # [batch, options, n]
    fits &= (out >= 0) & (out < target[axis]) & ((place + p)[:, None] - s * out < k)
    site = site * target[axis] + out
  candidates = jnp.where(fits, site, nowhere).reshape(ids.shape[0], -1)
  found = jnp.sort(candidates, 1)
  new = (found < nowhere) & jnp.concatenate([jnp.ones_like(found[:, :1], bool), found[:, 1:] != found[:, :-1]], 1)
  rank = jnp.where(new, jnp.cumsum(new, 1) - 1, capacity)
  sites = jax.vmap(lambda r, f: jnp.full(capacity, nowhere, f.dtype).at[r].set(f, mode='drop'))(rank, found)
  return sites, new.sum(1, dtype=jnp.int32)


def _lookup(
  ids: jax.Array, shape: Shape, corner: tuple[jax.Array, jax.Array, jax.Array], active: jax.Array, kernel: Shape
) -> jax.Array:
  """Rows of the sites in the window that starts at `corner`: [batch, outputs, taps], `inputs` where there is none.

  Sites that follow each other along x follow each other in the sorted list: one search serves a row of the kernel.
  """
  inputs = ids.shape[1]
  z, y, x = (c[..., None] for c in corner)
  dz, dy = np.indices(kernel[:2]).reshape(2, -1)
  padded = jnp.pad(ids, ((0, 0), (0, 1)), constant_values=math.prod(shape))
  inside = active[..., None] & (z + dz >= 0) & (z + dz < shape[0]) & (y + dy >= 0) & (y + dy < shape[1])
  base = ((z + dz) * shape[1] + (y + dy)) * shape[2]
  row = jax.vmap(jnp.searchsorted)(ids, jnp.where(inside, base + jnp.maximum(x, 0), 0)).astype(jnp.int32)
  taps = []
  for dx in range(kernel[2]):
    found = jax.vmap(lambda ids, rows: ids[rows])(padded, row) == base + x + dx
    here = inside & (x + dx >= 0) & (x + dx < shape[2]) & found
    taps.append(jnp.where(here, row, inputs))
    row = row + here
  return jnp.stack(taps, -1).reshape(*ids.shape[:1], active.shape[1], -1)


def submanifold_neighbours(ids: jax.Array, shape: Shape, kernel: Shape = (3, 3, 3)) -> Neighbours:
  """Neighbours of the active sites among themselves; the kernel has odd sides and its centre on the site.

  Source: submanifold sparse convolutions (Graham et al., CVPR 2018).
  """
  active = ids < math.prod(shape)
  corner = tuple(c - k // 2 for c, k in zip(coordinates(ids, shape), kernel, strict=True))
  table = _lookup(ids, shape, corner, active, kernel)
  used = active.sum(1, dtype=jnp.int32).max()
  return Neighbours(table, table[..., ::-1], used, used)


def strided_neighbours(
  ids: jax.Array, shape: Shape, outputs: jax.Array, kernel: Shape, stride: Shape, padding: Shape
) -> Neighbours:
  """Neighbours of `strided_sites` (`outputs`, [batch, m]) among the sites `ids` [batch, n] of the finer grid."""
  target = strided_shape(shape, kernel, stride, padding)
  active = outputs < math.prod(target)
  corner = tuple(s * c - p for c, s, p in zip(coordinates(outputs, target), stride, padding, strict=True))
  table = _lookup(ids, shape, corner, active, kernel)
  count, rows, taps = ids.shape[1], *table.shape[1:]

  def invert(table):
    here = jnp.broadcast_to(jnp.arange(rows, dtype=jnp.int32)[:, None], table.shape)
    return jnp.full((count, taps), rows, jnp.int32).at[table, jnp.arange(taps)].set(here, mode='drop')

  used_inputs = (ids < math.prod(shape)).sum(1, dtype=jnp.int32).max()
  return Neighbours(table, jax.vmap(invert)(table), active.sum(1, dtype=jnp.int32).max(), used_inputs)


def _gathered(x: jax.Array, rows: jax.Array) -> jax.Array:
  """[batch, n + 1, channels], [batch, m, taps] -> [batch, m, taps * channels]."""
  return jax.vmap(lambda x, r: x.at[r].get(mode='promise_in_bounds'))(x, rows).reshape(*rows.shape[:2], -1)


def _blocks(table: jax.Array, missing: int, block: int) -> jax.Array:
  """Pads the rows of a table to a multiple of the block."""
  return jnp.pad(table, ((0, 0), (0, -table.shape[1] % block), (0, 0)), constant_values=missing)


def _gather_matmul(x, kernel, table, used, block):
  taps, channels, features = kernel.shape
  rows = table.shape[1]
  block = min(block, rows)
  table = _blocks(table, x.shape[1], block)
  x = jnp.pad(x, ((0, 0), (0, 1), (0, 0)))  # the row of what is missing
  matrix = kernel.reshape(taps * channels, features)

  def body(i, out):
    part = jax.lax.dynamic_slice_in_dim(table, i * block, block, 1)
    return jax.lax.dynamic_update_slice_in_dim(out, _gathered(x, part) @ matrix, i * block, 1)

  out = jnp.zeros((*table.shape[:2], features), x.dtype)
  return jax.lax.fori_loop(0, -(-used // block), body, out)[:, :rows]


def _kernel_gradient(x, gradient, table, used, block):
  """[taps * channels, features], float32."""
  block = min(block, table.shape[1])
  table = _blocks(table, x.shape[1], block)
  gradient = _blocks(gradient, 0, block)
  x = jnp.pad(x, ((0, 0), (0, 1), (0, 0)))

  def body(i, total):
    part = jax.lax.dynamic_slice_in_dim(table, i * block, block, 1)
    g = jax.lax.dynamic_slice_in_dim(gradient, i * block, block, 1)
    return total + jnp.einsum('bmi,bmo->io', _gathered(x, part), g, preferred_element_type=jnp.float32)

  total = jnp.zeros((table.shape[2] * x.shape[2], gradient.shape[2]), jnp.float32)
  return jax.lax.fori_loop(0, -(-used // block), body, total)


def _in_blocks(function, block):
  if block is not None:
    return functools.partial(function, block=block)
  choices = {name: functools.partial(function, block=size) for name, size in BLOCKS.items()}
  return lambda *args: jax.lax.platform_dependent(*args, **choices)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _convolve(x, kernel, neighbours, block):
  return _in_blocks(_gather_matmul, block)(x, kernel, neighbours.table, neighbours.used_outputs)


def _convolve_forward(x, kernel, neighbours, block):
  return _convolve(x, kernel, neighbours, block), (x, kernel, neighbours)


def _convolve_backward(block, residuals, gradient):
  x, kernel, near = residuals
  back = jnp.swapaxes(kernel, 1, 2)
  grad_x = _in_blocks(_gather_matmul, block)(gradient, back, near.inverse, near.used_inputs)
  grad_kernel = _in_blocks(_kernel_gradient, block)(x, gradient, near.table, near.used_outputs)
  return grad_x, grad_kernel.reshape(kernel.shape).astype(kernel.dtype), None


_convolve.defvjp(_convolve_forward, _convolve_backward)


def gather_conv(x: jax.Array, kernel: jax.Array, neighbours: Neighbours, block: int | None = None) -> jax.Array:
  """Sparse convolution: out[i] = sum over taps k of x[table[i, k]] @ kernel[k].

  Reverse-mode differentiation of first order; the gradient gathers too, through the inverse table. Rows that no
  example uses cost nothing.

  Source: sparse convolutions (SECOND, Yan et al., 2018), of the paper's LiDAR branch.

  Args:
    x: [batch, inputs, channels], floating.
    kernel: [kd, kh, kw, channels, features] of the same dtype.
    neighbours: of `submanifold_neighbours` or `strided_neighbours`.
    block: output rows at a time: bounds memory at batch * block * taps * channels values. None: what suits the
      platform, `BLOCKS`.

  Returns:
    [batch, outputs, features].
  """
  chex.assert_rank([x, kernel, neighbours.table], [3, 5, 3])
  flat = kernel.reshape(-1, *kernel.shape[3:])
  if flat.shape[0] != neighbours.table.shape[2] or flat.shape[1] != x.shape[2]:
    raise ValueError(
      f'gather_conv: kernel {kernel.shape} does not fit {x.shape[2]} channels and {neighbours.table.shape[2]} taps.'
    )
  return _convolve(x, flat, neighbours, block)


def densify(x: jax.Array, ids: jax.Array, shape: Shape) -> jax.Array:
  """Features [batch, n, channels] at sites `ids` [batch, n] -> [batch, Z, Y, X, channels], zero elsewhere."""
  cells = math.prod(shape)
  canvas = jax.vmap(lambda x, ids: jnp.zeros((cells, x.shape[-1]), x.dtype).at[ids].set(x, mode='drop'))(x, ids)
  return canvas.reshape(x.shape[0], *shape, x.shape[-1])


def dense_conv(
  x: jax.Array, mask: jax.Array, kernel: jax.Array, stride: Shape = (1, 1, 1), padding: Shape | None = None
) -> tuple[jax.Array, jax.Array]:
  """The same convolutions on a dense grid, for small grids and as the rule that `gather_conv` is checked against.

  Args:
    x: [batch, Z, Y, X, channels], zero at inactive sites.
    mask: [batch, Z, Y, X] bool, the active sites.
    kernel: [kd, kh, kw, channels, features].
    stride: along z, y, x.
    padding: along z, y, x; None is a submanifold convolution: outputs at the sites of `mask` only.

  Returns:
    (outputs, zero where inactive; their active sites: those whose window touches an active one).
  """
  submanifold = padding is None
  pads = [(k // 2, k // 2) for k in kernel.shape[:3]] if submanifold else [(p, p) for p in padding]
  dims = ('NDHWC', 'DHWIO', 'NDHWC')
  y = jax.lax.conv_general_dilated(x, kernel, stride, pads, dimension_numbers=dims)
  if not submanifold:
    window = (1, *kernel.shape[:3], 1)
    grown = mask[..., None].astype(jnp.float32)
    pads = [(0, 0), *pads, (0, 0)]
    mask = jax.lax.reduce_window(grown, 0.0, jax.lax.max, window, (1, *stride, 1), pads)[..., 0] > 0
  return jnp.where(mask[..., None], y, 0), mask
