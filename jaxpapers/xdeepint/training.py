"""One training step of xDeepInt: the tables by group FTRL on the rows of the batch, the rest by a dense optimizer."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxpapers.engine import Supervised, TrainState
from jaxpapers.xdeepint.embeddings import Fields, global_ids, initial_rows, initial_table, put_rows, take_rows
from jaxpapers.xdeepint.model import PinHead
from jaxpapers.xdeepint.optimizers import (
  GroupFtrl,
  GroupFtrlState,
  group_ftrl_start,
  group_ftrl_step,
  group_ftrl_weights,
)

SHARDING = (('embedding.*/(table|n|z)$', PartitionSpec('model')),)
"""Rows of the table and of its optimizer state over the mesh axis `model`."""


def unique_ids(ids: jax.Array, size: int, rows: int) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Distinct ids in a static number of slots.

  Args:
    ids: [lookups] int32, 0..rows; `rows` itself stands for no row.
    size: slots; min(lookups, rows + 1) cannot overflow.
    rows: of the table.

  Returns:
    (ids [size], sorted, filled up with `rows`; slot of each lookup [lookups]; number of distinct ids, which is larger
    than `size` where the slots did not suffice).
  """
  values, order = jax.lax.sort((ids, jnp.arange(ids.shape[0], dtype=jnp.int32)), num_keys=1)
  fresh = jnp.concatenate([jnp.ones(1, bool), values[1:] != values[:-1]])
  slots = jnp.cumsum(fresh, dtype=jnp.int32) - 1
  unique = jnp.full(size, rows, jnp.int32).at[jnp.where(fresh, slots, size)].set(values, mode='drop')
  inverse = jnp.zeros_like(slots).at[order].set(slots, unique_indices=True)
  return unique, inverse, slots[-1] + 1


def summed_loss(logits: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
  """Cross entropy summed over the batch, each example times its weight (0 for padding)."""
  return jnp.sum(batch['weight'] * optax.sigmoid_binary_cross_entropy(logits, batch['label'].astype(logits.dtype)))


def mean_loss(logits: jax.Array, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
  """(mean cross entropy over the weights, no further metrics): the loss of the models that Adam trains."""
  return summed_loss(logits, batch) / jnp.maximum(batch['weight'].sum(), 1.0), {}


def first_projection(table: jax.Array, ids: jax.Array) -> jax.Array:
  """What the first step makes of rows that are not in the first batch: zeros. Their z is 0, below every threshold.

  Doing it ahead of that step changes nothing else, and every later step then need not look beyond its own rows.

  Args:
    table: initial [rows, K].
    ids: rows in the first batch, any shape; those beyond the table are skipped.
  """
  used = jnp.zeros(table.shape[0], bool).at[ids.reshape(-1)].set(True, mode='drop')
  return jnp.where(used[:, None], table, 0.0)


def row_sparse(
  fields: Fields,
  size: int,
  head: PinHead,
  options: GroupFtrl,
  dense: optax.GradientTransformation,
  *,
  store_weights: bool = True,
  row_slots: int = 0,
  mesh: Mesh | None = None,
  axis_name: str | None = None,
  start: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> Supervised:
  """Init and step of a Stage; batches are {'ids' [batch, F] int32, 'label' [batch], 'weight' [batch] float32}.

  The state is a `TrainState` with params {'embedding': {'table'}, 'pin': {...}} and opt_state {'embedding':
  GroupFtrlState, 'pin': ...}. All weights see the gradients of one forward pass on the loss summed over the batch.

  Source: the joint optimizers of the paper.

  Args:
    fields: names and sizes.
    size: K.
    head: the interaction network.
    options: of the tables' group FTRL.
    dense: optimizer of kernels, output weights and bias.
    store_weights: False keeps only (z, n), of which the weights are a function: a third less memory.
    row_slots: slots for the distinct ids of a batch; 0 takes as many as can occur. If they do not suffice, the loss
      becomes NaN, at which the engine stops: no gradient is dropped in silence.
    mesh: with more than one device, the engine's mesh; `SHARDING` then spreads the tables.
    axis_name: axis of pmap, None under jit. Gradients are summed over it before they are squared.
    start: variables after initialisation -> variables to start from (imported weights); needs store_weights.

  Raises:
    ValueError: for hyper-parameters that cannot be, or a start without stored weights.
  """
  options.check()
  if start is not None and not store_weights:
    raise ValueError('Imported weights need store_weights=True.')
  rows = fields.padded_rows

  def init(key: jax.Array, batch: Mapping[str, jax.Array], earlier: Mapping[str, Any]) -> TrainState:
    del earlier
    table_key, head_key = jax.random.split(key)
    x0 = jnp.zeros((1, len(fields), size), jnp.float32)
    params = {'pin': head.init(head_key, x0)['params'], 'embedding': {}}
    zeros = jnp.zeros((rows, size), jnp.float32)
    slots: dict[str, Any] = {}
    if store_weights:
      table = initial_table(table_key, fields, size)
      params['embedding'] = {'table': table}
      if start is None:
        params['embedding'] = {'table': first_projection(table, global_ids(batch['ids'], fields))}
      else:
        params = start({'params': params})['params']
    else:
      slots['init_key'] = jax.random.key_data(table_key)
    z = zeros if start is None else group_ftrl_start(params['embedding']['table'], options)
    opt_state = {'embedding': GroupFtrlState(zeros, z), 'pin': dense.init(params['pin']), **slots}
    return TrainState(jnp.zeros((), jnp.int32), params, {}, opt_state, None)

  def step(state: TrainState, batch: Mapping[str, jax.Array], key: jax.Array) -> tuple[TrainState, dict]:
    ids = global_ids(batch['ids'], fields)
    everyone = ids if axis_name is None else jax.lax.all_gather(ids, axis_name)
    lookups = everyone.size
    unique, inverse, distinct = unique_ids(everyone.reshape(-1), row_slots or min(lookups, rows + 1), rows)
    inverse = inverse.reshape(everyone.shape)
    if axis_name is not None:
      inverse = inverse[jax.lax.axis_index(axis_name)]
    elif mesh is not None:
      inverse = jax.lax.with_sharding_constraint(inverse, NamedSharding(mesh, PartitionSpec('data')))
    slots = state.opt_state['embedding']
    n, z = take_rows(slots.n, unique, mesh), take_rows(slots.z, unique, mesh)
    if store_weights:
      w = take_rows(state.params['embedding']['table'], unique, mesh)
    else:
      table_key = jax.random.wrap_key_data(state.opt_state['init_key'])
      w = jax.lax.cond(
        state.step == 0,
        lambda: jnp.where(unique[:, None] < fields.rows, initial_rows(table_key, unique, size), 0.0),
        lambda: group_ftrl_weights(z, n, options),
      )

    def objective(w, pin):
      x0 = jnp.take(w, inverse, axis=0)
      return summed_loss(head.apply({'params': pin}, x0, train=True, rngs={'dropout': key}), batch)

    loss, (row_grads, pin_grads) = jax.value_and_grad(objective, argnums=(0, 1))(w, state.params['pin'])
    weight = batch['weight'].sum()
    if axis_name is not None:
      loss, row_grads, pin_grads, weight = jax.lax.psum((loss, row_grads, pin_grads, weight), axis_name)
    w, n, z = group_ftrl_step(w, n, z, row_grads, options)
    updates, dense_state = dense.update(pin_grads, state.opt_state['pin'], state.params['pin'])
    embedding = {}
    if store_weights:
      embedding = {'table': put_rows(state.params['embedding']['table'], unique, w, mesh)}
    params = {'embedding': embedding, 'pin': optax.apply_updates(state.params['pin'], updates)}
    slots = GroupFtrlState(put_rows(slots.n, unique, n, mesh), put_rows(slots.z, unique, z, mesh))
    opt_state = {**state.opt_state, 'embedding': slots, 'pin': dense_state}
    loss = jnp.where(distinct <= unique.shape[0], loss, jnp.nan)
    metrics = {'loss': loss / jnp.maximum(weight, 1.0), 'loss_sum': loss, 'distinct_rows': distinct * 1.0}
    return TrainState(state.step + 1, params, {}, opt_state, None), metrics

  return Supervised(init, step)


def table_rows(state: TrainState, ids: jax.Array, options: GroupFtrl, mesh: Mesh | None = None) -> jax.Array:
  """Embeddings of global ids [batch, F] -> [batch, F, K], from the table or, where none is stored, from (z, n)."""
  axis = None if mesh is None else 'data'
  if 'table' in state.params['embedding']:
    return take_rows(state.params['embedding']['table'], ids, mesh, axis)
  slots = state.opt_state['embedding']
  return group_ftrl_weights(take_rows(slots.z, ids, mesh, axis), take_rows(slots.n, ids, mesh, axis), options)


def weights_table(state: TrainState, options: GroupFtrl) -> jax.Array:
  """The whole table [rows, K], stored or not."""
  if 'table' in state.params['embedding']:
    return state.params['embedding']['table']
  slots = state.opt_state['embedding']
  return group_ftrl_weights(slots.z, slots.n, options)


def replicas(make: Callable[[Any], Supervised], values: Any, batch_axis: int | None) -> Supervised:
  """Several trainings as one program, vmapped.

  Args:
    make: a hyper-parameter (an entry of `values`) -> init and step.
    values: array [replicas]: seeds, or a hyper-parameter that differs between them.
    batch_axis: axis of the batch's leaves along which each replica finds its own data, with random numbers of its own.
      None: all see the same data and the same random numbers, so that only the hyper-parameter tells them apart.

  Returns:
    Init and step whose state has a leading axis [replicas], and whose metrics are means over it.
  """
  values = jnp.asarray(values)
  key_axis = None if batch_axis is None else 0

  def keys(key):
    return key if batch_axis is None else jax.random.split(key, len(values))

  def init(key, batch, earlier):
    def one(value, key, batch):
      return make(value).init(key, batch, earlier)

    return jax.vmap(one, (0, key_axis, batch_axis), axis_size=len(values))(values, keys(key), batch)

  def step(state, batch, key):
    def one(value, state, batch, key):
      return make(value).step(state, batch, key)

    state, metrics = jax.vmap(one, (0, 0, batch_axis, key_axis))(values, state, batch, keys(key))
    return state, jax.tree.map(jnp.mean, metrics)

  return Supervised(init, step)
