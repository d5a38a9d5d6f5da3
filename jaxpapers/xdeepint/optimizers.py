"""Group FTRL for embedding tables, FTRL for the rest: follow-the-regularised-leader steps that give exact zeros.

`group_ftrl` and `ftrl` are optax transformations over whole arrays. `group_ftrl_rows` does the same to a few rows of a
table: after the first step the weights are a function of (z, n) and a row without gradient does not move, so updating
only the rows of a batch equals the dense update. Gradients are those of the loss *summed* over the batch.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

PROXES = ('published', 'exact')
_NEWTON_STEPS = 12


class GroupFtrl(NamedTuple):
  """Hyper-parameters of group FTRL; Python numbers or arrays (so that a sparsity path is one vmap).

  Attributes:
    alpha: learning rate, > 0.
    beta: added to sqrt(n).
    lambda1: strength of the group lasso over rows; the threshold is lambda1 * sqrt(K).
    lambda2: strength of the ridge.
    prox: 'published' (the authors' closed form, exact where n is equal within a row) or 'exact' (the minimiser).
  """

  alpha: float | jax.Array = 0.02
  beta: float | jax.Array = 1.0
  lambda1: float | jax.Array = 10.0
  lambda2: float | jax.Array = 10.0
  prox: str = 'published'

  def check(self) -> 'GroupFtrl':
    """Itself.

    Raises:
      ValueError: naming the field that cannot be.
    """
    if self.prox not in PROXES:
      raise ValueError(f"prox={self.prox!r} is not known; it is 'published' or 'exact'.")
    _positive('alpha', self.alpha)
    for name in ('beta', 'lambda1', 'lambda2'):
      _not_negative(name, getattr(self, name))
    return self


class GroupFtrlState(NamedTuple):
  """n: sums of squared gradients; z: sums of gradients less sigma * w; both shaped as the table."""

  n: chex.ArrayTree
  z: chex.ArrayTree


class FtrlState(NamedTuple):
  """n: initial accumulator plus sums of squared gradients; z: linear term."""

  n: chex.ArrayTree
  z: chex.ArrayTree


def _positive(name, value):
  if isinstance(value, int | float) and not value > 0:
    raise ValueError(f'{name}={value} must be positive.')


def _not_negative(name, value):
  if isinstance(value, int | float) and not value >= 0:
    raise ValueError(f'{name}={value} must not be negative.')


def group_ftrl_weights(z: jax.Array, n: jax.Array, options: GroupFtrl) -> jax.Array:
  """The weights that (z, n) stand for: per row argmin_w z.w + 0.5 * sum_i q_i w_i^2 + t ||w||.

  q = (beta + sqrt(n)) / alpha + lambda2 and t = lambda1 * sqrt(K). A row is zero exactly where ||z|| <= t.

  Source: the paper's G-FTRL, as in the authors' code.

  Args:
    z: [..., rows, K].
    n: like z.
    options: hyper-parameters.

  Returns:
    [..., rows, K].
  """
  chex.assert_equal_shape([z, n])
  threshold = options.lambda1 * jnp.sqrt(jnp.asarray(z.shape[-1], z.dtype))
  curvature = (options.beta + jnp.sqrt(n)) / options.alpha + options.lambda2
  norm = jnp.sqrt(jnp.sum(jnp.square(z), axis=-1, keepdims=True))
  alive = norm > threshold
  if options.prox == 'exact':
    weights = -z / (curvature + threshold / _radius(z, curvature, threshold, norm))
  else:
    weights = -(1.0 - threshold / jnp.where(alive, norm, 1.0)) * z / curvature
  return jnp.where(alive, weights, 0.0)


def _radius(z, curvature, threshold, norm):
  """||w|| of the exact minimiser: the root of 1 / s(rho) = 1, s(rho)^2 = sum_i (z_i / (q_i rho + t))^2.

  1 / s is increasing and concave, so Newton's method from the left, where the largest curvature would put the root,
  rises to it without overshooting; with equal curvatures 1 / s is linear and one step is exact.
  """
  alive = norm > threshold
  # Rows that end as zero take part with harmless numbers.
  z, norm = jnp.where(alive, z, 1.0), jnp.where(alive, norm, 2.0 * threshold + 1.0)
  start = (norm - threshold) / jnp.max(curvature, axis=-1, keepdims=True)

  def step(_, rho):
    denominators = curvature * rho + threshold
    squares = jnp.square(z / denominators)
    total = jnp.sum(squares, axis=-1, keepdims=True)
    slope = jnp.sum(squares * curvature / denominators, axis=-1, keepdims=True)
    # The derivative of total^(-1/2) is total^(-3/2) * slope.
    return rho + jnp.maximum((jnp.sqrt(total) - 1.0) * total / slope, 0.0)

  return jax.lax.fori_loop(0, _NEWTON_STEPS, step, start)


def group_ftrl_step(
  w: jax.Array, n: jax.Array, z: jax.Array, grads: jax.Array, options: GroupFtrl
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """One step on whole rows.

  Args:
    w: current weights [rows, K].
    n: sums of squared gradients, like w.
    z: linear term, like w.
    grads: summed gradient, like w.
    options: hyper-parameters.

  Returns:
    (w, n, z) after the step.
  """
  chex.assert_equal_shape([w, n, z, grads])
  new_n = n + jnp.square(grads)
  sigma = (jnp.sqrt(new_n) - jnp.sqrt(n)) / options.alpha
  new_z = z + grads - sigma * w
  return group_ftrl_weights(new_z, new_n, options), new_n, new_z


def group_ftrl(options: GroupFtrl) -> optax.GradientTransformation:
  """Group FTRL over whole tables; every leaf is a table [rows, K] whose rows are the groups.

  The first step sets every row without gradient to exactly zero, whatever its initial value.

  Source: the paper's G-FTRL, as in the authors' code.
  """
  options.check()

  def init(params):
    return GroupFtrlState(optax.tree.zeros_like(params), optax.tree.zeros_like(params))

  def update(grads, state, params=None):
    if params is None:
      raise ValueError('group_ftrl needs the parameters: optimizer.update(grads, state, params).')
    new = jax.tree.map(lambda *x: group_ftrl_step(*x, options), params, state.n, state.z, grads)
    w, n, z = jax.tree.transpose(jax.tree.structure(params), jax.tree.structure((0, 0, 0)), new)
    return jax.tree.map(jnp.subtract, w, params), GroupFtrlState(n, z)

  return optax.GradientTransformation(init, update)


def group_ftrl_start(w: jax.Array, options: GroupFtrl) -> jax.Array:
  """The z for which (z, n = 0) stands for the weights `w`: training goes on from there instead of from zero.

  Both proxes agree here, since n is equal everywhere. [rows, K] -> [rows, K].
  """
  curvature = options.beta / options.alpha + options.lambda2
  threshold = options.lambda1 * jnp.sqrt(jnp.asarray(w.shape[-1], w.dtype))
  norm = jnp.sqrt(jnp.sum(jnp.square(w), axis=-1, keepdims=True))
  return jnp.where(norm > 0.0, -(curvature + threshold / jnp.where(norm > 0.0, norm, 1.0)) * w, 0.0)


def sum_duplicates(ids: jax.Array, row_grads: jax.Array, size: int, rows: int) -> tuple[jax.Array, jax.Array]:
  """Adds up the gradients of equal ids.

  Args:
    ids: [lookups] int32; an id outside 0..rows-1 stands for no row.
    row_grads: [lookups, K].
    size: static number of slots; min(lookups, rows + 1) cannot overflow.
    rows: of the table.

  Returns:
    (ids [size] sorted and distinct, filled up with `rows`; gradients [size, K]).
  """
  ids = jnp.where((ids >= 0) & (ids < rows), ids, rows)
  unique, inverse = jnp.unique(ids, size=size, fill_value=rows, return_inverse=True)
  return unique, jax.ops.segment_sum(row_grads, inverse.reshape(-1), num_segments=size)


def group_ftrl_rows(
  table: jax.Array, state: GroupFtrlState, ids: jax.Array, row_grads: jax.Array, options: GroupFtrl
) -> tuple[jax.Array, GroupFtrlState]:
  """`group_ftrl` on the rows `ids` alone, equal to the dense step once rows outside the first batch are zero.

  Source: the paper's G-FTRL; the restriction to rows is this library's own.

  Args:
    table: [rows, K].
    state: n and z, each [rows, K].
    ids: [U] int32, distinct (see `sum_duplicates`); ids outside 0..rows-1 are skipped.
    row_grads: summed gradient of each row, [U, K].
    options: hyper-parameters.

  Returns:
    (table, state) with those rows renewed.
  """
  chex.assert_shape(row_grads, (*ids.shape, table.shape[1]))
  ids = jnp.where((ids >= 0) & (ids < table.shape[0]), ids, table.shape[0])
  take = functools.partial(jnp.take, indices=ids, axis=0, mode='fill', fill_value=0)
  w, n, z = group_ftrl_step(take(table), take(state.n), take(state.z), row_grads, options)
  put = [x.at[ids].set(y, mode='drop') for x, y in ((table, w), (state.n, n), (state.z, z))]
  return put[0], GroupFtrlState(put[1], put[2])


def ftrl(
  learning_rate: float = 0.02, l1: float = 0.1, l2: float = 0.1, initial_accumulator: float = 0.1
) -> optax.GradientTransformation:
  """TensorFlow's FtrlOptimizer with learning_rate_power = -0.5: l2 counts twice, and there is no beta.

  Source: McMahan et al., KDD 2013.

  Raises:
    ValueError: naming the hyper-parameter that cannot be.
  """
  _positive('learning_rate', learning_rate)
  for name, value in (('l1', l1), ('l2', l2), ('initial_accumulator', initial_accumulator)):
    _not_negative(name, value)

  def init(params):
    n = jax.tree.map(lambda p: jnp.full_like(p, initial_accumulator), params)
    return FtrlState(n, optax.tree.zeros_like(params))

  def step(w, n, z, g):
    new_n = n + jnp.square(g)
    sigma = (jnp.sqrt(new_n) - jnp.sqrt(n)) / learning_rate
    new_z = z + g - sigma * w
    new_w = (jnp.sign(new_z) * l1 - new_z) / (jnp.sqrt(new_n) / learning_rate + 2.0 * l2)
    return jnp.where(jnp.abs(new_z) > l1, new_w, 0.0), new_n, new_z

  def update(grads, state, params=None):
    if params is None:
      raise ValueError('ftrl needs the parameters: optimizer.update(grads, state, params).')
    new = jax.tree.map(step, params, state.n, state.z, grads)
    w, n, z = jax.tree.transpose(jax.tree.structure(params), jax.tree.structure((0, 0, 0)), new)
    # In IEEE arithmetic w + (0 - w) is exactly 0, so that apply_updates keeps the zeros.
    return jax.tree.map(jnp.subtract, w, params), FtrlState(n, z)

  return optax.GradientTransformation(init, update)


def xdeepint_optimizer(
  table_options: GroupFtrl, dense: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
  """The published pair over {'embedding': ..., 'pin': ...}, both from the gradients of one forward pass.

  Args:
    table_options: of the tables.
    dense: for kernels, output weights and bias, e.g. `ftrl()`.
  """
  transforms = {'embedding': group_ftrl(table_options), 'pin': dense}
  # A label stands for the whole subtree below it.
  return optax.multi_transform(transforms, lambda params: {name: name for name in params})
