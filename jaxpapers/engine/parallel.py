"""One mesh, and a pure step compiled for it: by jit with named shardings, or by pmap."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxpapers.engine.errors import UserError
from jaxpapers.engine.experiment import FSDP, Batch, Metrics, PyTree, ShardingRules, State
from jaxpapers.engine.training import pmean

PMAP_AXIS = 'data'


def axis_name(config: ml_collections.ConfigDict) -> str | None:
  """The axis over which a step must average under `config.parallel`: 'data' for pmap, None for jit."""
  if config.parallel not in ('jit', 'pmap'):
    raise UserError(f"config.parallel={config.parallel!r} is not known; it is 'jit' or 'pmap'.")
  return PMAP_AXIS if config.parallel == 'pmap' else None


def make_mesh(axes: Mapping[str, int]) -> Mesh:
  """Mesh with the axes `data` and `model` over all devices; -1 takes what the other leaves.

  Args:
    axes: {'data': int, 'model': int}.

  Raises:
    UserError: if the product is not the number of devices.
  """
  sizes = {'data': axes['data'], 'model': axes['model']}
  devices = jax.device_count()
  free = [name for name, size in sizes.items() if size == -1]
  fixed = int(np.prod([size for size in sizes.values() if size != -1]))
  if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
    raise UserError(f'config.mesh={sizes} must hold positive sizes, and at most one -1.')
  if free and devices % fixed == 0:
    sizes[free[0]] = devices // fixed
  if int(np.prod(list(sizes.values()))) != devices:
    raise UserError(f'config.mesh={sizes} does not fit: the product must be the number of devices, {devices}.')
  # Explicit axes (the default of make_mesh) reject ordinary model code.
  return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(jax.sharding.AxisType.Auto,) * 2)


def path_name(path: tuple) -> str:
  """'params/dense/kernel' for a key path of jax.tree_util."""
  return '/'.join(str(getattr(key, 'key', getattr(key, 'name', getattr(key, 'idx', key)))) for key in path)


def _spec(path: tuple, leaf: Any, rules: ShardingRules, mesh: Mesh) -> PartitionSpec:
  name = path_name(path)
  for pattern, spec in rules:
    if not re.search(pattern, name):
      continue
    if spec != FSDP:
      return _fitting(name, leaf, spec, mesh)
    size = mesh.shape['data']
    dims = [d for d in range(leaf.ndim) if leaf.shape[d] % size == 0 and leaf.shape[d] >= size]
    if not dims or size == 1:
      return PartitionSpec()
    largest = max(dims, key=lambda d: leaf.shape[d])
    return PartitionSpec(*('data' if d == largest else None for d in range(leaf.ndim)))
  return PartitionSpec()


def _fitting(name: str, leaf: Any, spec: PartitionSpec, mesh: Mesh) -> PartitionSpec:
  """`spec`, or replication for a leaf of another rank (an optimizer's scalar under the same path)."""
  if len(spec) > leaf.ndim:
    return PartitionSpec()
  for size, axis in zip(leaf.shape, spec, strict=False):
    if axis is None:
      continue
    parts = int(np.prod([mesh.shape[a] for a in (axis if isinstance(axis, tuple) else (axis,))]))
    if size % parts:
      raise UserError(f'{name} has shape {leaf.shape}, which its sharding {spec} cannot split into {parts} parts.')
  return spec


def state_shardings(abstract: State, rules: ShardingRules, mesh: Mesh) -> PyTree:
  """A NamedSharding for every leaf of the state."""
  return jax.tree_util.tree_map_with_path(lambda p, x: NamedSharding(mesh, _spec(p, x, rules, mesh)), abstract)


def check_batch(batch: Batch, mesh: Mesh) -> int:
  """The global batch size, or an error if the leaves disagree or it does not divide over the devices.

  Args:
    batch: this host's share, numpy leaves [local_batch, ...].
  """
  sizes = {path_name(p): np.shape(x)[:1] for p, x in jax.tree_util.tree_leaves_with_path(batch)}
  if len(set(sizes.values())) != 1 or () in sizes.values():
    raise UserError(f'The leaves of a batch must share their first dimension; they have {sizes}.')
  size = next(iter(sizes.values()))[0] * jax.process_count()
  devices = mesh.shape['data']
  if size % devices:
    lower = size // devices * devices
    works = f'{lower} or {lower + devices}' if lower else f'{devices}'
    raise UserError(f'batch_size {size} does not divide over the {devices} devices of the data axis; {works} would.')
  return size


def global_batch(batch: Batch, mesh: Mesh) -> Batch:
  """This host's share as part of the global, sharded batch."""
  sharding = NamedSharding(mesh, PartitionSpec('data'))
  if jax.process_count() == 1:
    return jax.device_put(batch, sharding)
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


class JitStep:
  """The step as one global program: `(state, batch, index) -> (state, metrics)`, the state donated."""

  def __init__(self, step: Callable, shardings: PyTree, mesh: Mesh, key: jax.Array):
    """Compiles `step(state, batch, key)`; `key` is the stage's, folded with the step index inside."""
    self.mesh = mesh
    self._replicated = NamedSharding(mesh, PartitionSpec())
    self._key = jax.device_put(jax.random.key_data(key), self._replicated)

    def program(state, batch, key_data, index):
      return step(state, batch, jax.random.fold_in(jax.random.wrap_key_data(key_data), index))

    self._jitted = jax.jit(program, donate_argnums=0, out_shardings=(shardings, self._replicated))

  def put(self, batch: Batch) -> Batch:
    """Batch of this host -> device batch."""
    return global_batch(batch, self.mesh)

  def __call__(self, state: State, batch: Batch, index: int) -> tuple[State, Metrics]:
    """One update; `index` is the step."""
    return self._jitted(state, batch, self._key, jax.device_put(np.uint32(index), self._replicated))

  def lower(self, state: State, batch: Batch) -> Any:
    """The lowered program, for cost analysis."""
    return self._jitted.lower(state, batch, self._key, jax.device_put(np.uint32(0), self._replicated))

  def wrap(self, state: State) -> State:
    """State as this step holds it."""
    return state

  def unwrap(self, state: State) -> State:
    """State as checkpoints and evaluations see it."""
    return state


class PmapStep:
  """The same step with one program per device: batch statistics and dropout are each device's own."""

  def __init__(self, step: Callable, shardings: PyTree, mesh: Mesh, key: jax.Array):
    """Compiles `step(state, batch, key)`, which averages over the axis 'data' itself (see `pmean`)."""
    if mesh.shape['model'] != 1:
      raise UserError(
        f"config.parallel='pmap' replicates the state: config.mesh.model must be 1, not {mesh.shape['model']}."
      )
    if any(s.spec != PartitionSpec() for s in jax.tree.leaves(shardings)):
      raise UserError(
        "config.parallel='pmap' replicates the state, but sharding rules split it; use config.parallel='jit'."
      )
    self.mesh = mesh
    self._replicated = NamedSharding(mesh, PartitionSpec())
    self._local = jax.local_device_count()
    self._key = np.asarray(jax.random.key_data(key))

    def program(state, batch, key_data, index):
      key = jax.random.fold_in(jax.random.wrap_key_data(key_data), index)
      state, metrics = step(state, batch, jax.random.fold_in(key, jax.lax.axis_index(PMAP_AXIS)))
      return state, pmean(metrics, PMAP_AXIS)

    self._pmapped = jax.pmap(program, axis_name=PMAP_AXIS, donate_argnums=0)

  def put(self, batch: Batch) -> Batch:
    """[local_batch, ...] -> [local_devices, local_batch / local_devices, ...]."""
    return jax.tree.map(lambda x: np.reshape(x, (self._local, -1, *np.shape(x)[1:])), batch)

  def __call__(self, state: State, batch: Batch, index: int) -> tuple[State, Metrics]:
    """One update; `index` is the step."""
    keys = np.stack([self._key] * self._local)
    state, metrics = self._pmapped(state, batch, keys, np.full(self._local, index, np.uint32))
    return state, jax.tree.map(lambda x: x.addressable_data(0).reshape(()), metrics)

  def lower(self, state: State, batch: Batch) -> Any:
    """The lowered program, for cost analysis."""
    keys = np.stack([self._key] * self._local)
    return self._pmapped.lower(state, batch, keys, np.zeros(self._local, np.uint32))

  def wrap(self, state: State) -> State:
    """Replicated state -> one copy per local device, stacked."""

    def stack(x):
      if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        raise UserError(
          "config.parallel='pmap' cannot carry PRNG keys in the state; use the key that the step is given."
        )
      return np.stack([np.asarray(x.addressable_data(0))] * self._local)

    return jax.tree.map(stack, state)

  def unwrap(self, state: State) -> State:
    """Stacked state -> replicated global state."""
    return jax.device_put(
      jax.tree.map(lambda x: np.asarray(x.addressable_data(0)).reshape(x.shape[1:]), state), self._replicated
    )


def compile_step(parallel: str, step: Callable, shardings: PyTree, mesh: Mesh, key: jax.Array) -> JitStep | PmapStep:
  """The step as `config.parallel` asks: 'jit' or 'pmap'."""
  return {'jit': JitStep, 'pmap': PmapStep}[parallel](step, shardings, mesh, key)


def run_init(init: Callable, arguments: tuple, shardings: PyTree) -> State:
  """`init(*arguments)`, compiled for the shardings.

  It runs once: on CPU, where compiling it would take longer than running it, it is compiled without optimisation.
  """
  options = {'xla_backend_optimization_level': 0} if jax.default_backend() == 'cpu' else None
  return jax.jit(init, out_shardings=shardings, compiler_options=options)(*arguments)


def abstract_state(init: Callable, arguments: tuple, rules: ShardingRules, mesh: Mesh) -> tuple[State, PyTree]:
  """Shapes, dtypes and shardings of `init(*arguments)`, without running it; and the shardings alone.

  Raises:
    UserError: if the model's settings do not fit each other or the batch.
  """
  try:
    abstract = jax.eval_shape(init, *arguments)
  except ValueError as error:
    # Model code knows no UserError: it says in a ValueError what does not fit.
    raise UserError(str(error).splitlines()[0]) from error
  shardings = state_shardings(abstract, rules, mesh)
  abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
  return abstract, shardings
