"""One embedding table for all fields: ids, initial values, and the rows of a table that is spread over devices."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

MISSING = -1
"""Field-local id of a missing value or of a level outside the vocabulary: a zero vector without gradient."""

ROW_MULTIPLE = 64
"""Tables are padded to this many rows, so that a checkpoint fits every `model` axis that divides it."""


@dataclasses.dataclass(frozen=True)
class Fields:
  """The fields of a record, in order.

  Attributes:
    names: distinct.
    sizes: levels of each field; its local ids are 0..size-1.
  """

  names: tuple[str, ...]
  sizes: tuple[int, ...]

  def __post_init__(self):
    """Checks lengths and names."""
    if len(self.names) != len(self.sizes) or len(set(self.names)) != len(self.names) or not self.names:
      raise ValueError(f'Fields need distinct names and one size each, not {self.names} and {self.sizes}.')
    if any(size < 0 for size in self.sizes):
      raise ValueError(f'Field {self.names[int(np.argmin(self.sizes))]!r} has a negative size.')

  def __len__(self) -> int:
    """Number of fields F."""
    return len(self.names)

  @property
  def rows(self) -> int:
    """Levels of all fields together."""
    return sum(self.sizes)

  @property
  def padded_rows(self) -> int:
    """Rows of the table: at least one, a multiple of ROW_MULTIPLE."""
    return max(1, -(-self.rows // ROW_MULTIPLE)) * ROW_MULTIPLE

  @property
  def offsets(self) -> np.ndarray:
    """First row of each field, int32 [F]."""
    return np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int32)

  def field_of_row(self) -> np.ndarray:
    """Index of the field that each of the `rows` belongs to, int32."""
    return np.repeat(np.arange(len(self), dtype=np.int32), self.sizes)


def check_ids(ids: np.ndarray, fields: Fields, where: str = 'ids', first_row: int = 0) -> None:
  """Looks at local ids on the host: on the device an id outside a table would be clamped in silence.

  Args:
    ids: [rows, F] integers.
    fields: what they must fit.
    where: file or argument, for the message.
    first_row: number of the first row, for the message.

  Raises:
    ValueError: naming the field, the row and the value.
  """
  if ids.ndim != 2 or ids.shape[1] != len(fields):
    raise ValueError(
      f'{where} has shape {ids.shape}, but there are {len(fields)} fields: [rows, {len(fields)}] expected.'
    )
  if ids.dtype.kind not in 'iu':
    raise ValueError(f'{where} holds {ids.dtype}; ids are integers.')
  wrong = (ids < MISSING) | (ids >= np.asarray(fields.sizes))
  if wrong.any():
    row, column = np.argwhere(wrong)[0]
    raise ValueError(
      f'{where}, row {first_row + row}: field {fields.names[column]!r} has id {ids[row, column]}; '
      f'ids go from 0 to {fields.sizes[column] - 1}, and -1 is a missing value.'
    )


def check_labels(labels: np.ndarray, where: str = 'labels', first_row: int = 0) -> None:
  """Labels are 0 or 1.

  Raises:
    ValueError: naming the row and the value.
  """
  wrong = (labels != 0) & (labels != 1)
  if wrong.any():
    row = int(np.argmax(wrong))
    raise ValueError(f'{where}, row {first_row + row}: label {labels[row]} is neither 0 nor 1.')


def global_ids(ids: jax.Array, fields: Fields) -> jax.Array:
  """Field-local ids -> rows of the one table; a missing value becomes `padded_rows`, which no table has.

  [batch, F] -> [batch, F] int32.
  """
  chex.assert_axis_dimension(ids, -1, len(fields))
  ids = ids.astype(jnp.int32)
  known = (ids >= 0) & (ids < np.asarray(fields.sizes, np.int32))
  return jnp.where(known, ids + fields.offsets, fields.padded_rows)


def initial_rows(key: jax.Array, ids: jax.Array, size: int) -> jax.Array:
  """Initial values of the rows `ids`, a function of (key, id) alone: a row can be drawn without its table.

  Truncated normal, deviation 1 / sqrt(K), resampled beyond two deviations (of the untruncated normal).

  [U] -> [U, K] float32.
  """

  def draw(i):
    return jax.random.truncated_normal(jax.random.fold_in(key, i), -2.0, 2.0, (size,), jnp.float32)

  return jax.vmap(draw)(ids) / jnp.sqrt(jnp.float32(size))


def initial_table(key: jax.Array, fields: Fields, size: int) -> jax.Array:
  """[padded_rows, K] float32; rows beyond the last field are zero."""
  ids = jnp.arange(fields.padded_rows, dtype=jnp.int32)
  return jnp.where(ids[:, None] < fields.rows, initial_rows(key, ids, size), 0.0)


def take_rows(table: jax.Array, ids: jax.Array, mesh: Mesh | None = None, batch_axis: str | None = None) -> jax.Array:
  """Rows of a table; an id outside it gives a zero row without gradient.

  Source: the embedding columns of the authors' code.

  Args:
    table: [rows, K]; with a mesh, its rows are spread over the axis `model`.
    ids: [...] int32.
    mesh: None where the table lies on one device.
    batch_axis: mesh axis that splits the first axis of `ids`; None where every device holds all of them.

  Returns:
    [..., K]. Each shard gives its own rows and zeros else, so that the sum over shards is exact.
  """
  outside = (ids < 0) | (ids >= table.shape[0])
  if mesh is None or mesh.shape['model'] == 1:
    return jnp.take(table, jnp.where(outside, table.shape[0], ids), axis=0, mode='fill', fill_value=0)
  spread = PartitionSpec(batch_axis)

  @functools.partial(
    jax.shard_map, mesh=mesh, in_specs=(PartitionSpec('model'), spread), out_specs=spread, check_vma=False
  )
  def look_up(shard, ids):
    local = ids - jax.lax.axis_index('model') * shard.shape[0]
    mine = (local >= 0) & (local < shard.shape[0])
    rows = jnp.take(shard, jnp.where(mine, local, shard.shape[0]), axis=0, mode='fill', fill_value=0)
    return jax.lax.psum(rows, 'model')

  return look_up(table, ids)


def put_rows(table: jax.Array, ids: jax.Array, rows: jax.Array, mesh: Mesh | None = None) -> jax.Array:
  """The table with the rows `ids` replaced; ids outside it are skipped. Every device holds all ids and rows.

  Args:
    table: [rows, K]; with a mesh, its rows are spread over the axis `model`.
    ids: [U] int32, sorted, distinct but for ids beyond the table.
    rows: [U, K].
    mesh: None where the table lies on one device.

  Returns:
    Like `table`; in place where it was donated.
  """
  if mesh is None or mesh.shape['model'] == 1:
    return table.at[ids].set(rows, mode='drop')

  @functools.partial(
    jax.shard_map,
    mesh=mesh,
    in_specs=(PartitionSpec('model'), PartitionSpec(), PartitionSpec()),
    out_specs=PartitionSpec('model'),
    check_vma=False,
  )
  def write(shard, ids, rows):
    local = ids - jax.lax.axis_index('model') * shard.shape[0]
    mine = (local >= 0) & (local < shard.shape[0])
    return shard.at[jnp.where(mine, local, shard.shape[0])].set(rows, mode='drop')

  return write(table, ids, rows)
