"""Checkpoints of one stage: asynchronous, newest and best kept, verified on restore. The only file that knows orbax."""

import json
import logging
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxpapers.engine.config import flatten
from jaxpapers.engine.errors import DamagedError, UserError
from jaxpapers.engine.experiment import PyTree, State
from jaxpapers.engine.fingerprint import fingerprints, leaf_types

# Settings that do not change what a run computes: a run may go on under other values of these.
FREE = ('log_every', 'checkpoint.', 'mesh.', 'data.workers', 'data.prefetch', 'data.dir', 'transfer_guard', 'report.')

# orbax logs every file at INFO, and warns at every save without a metric.
logging.getLogger('absl').setLevel(logging.ERROR)


def workdir_path(path: str) -> epath.Path:
  """The absolute path of a local or remote (gs://) workdir."""
  return epath.Path(path if '://' in path else os.path.abspath(path))


def _different(mine: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
  mine, saved = (flatten(json.loads(json.dumps(c))) for c in (mine, saved))
  fields = sorted(k for k in {*mine, *saved} if not k.startswith(FREE) and mine.get(k) != saved.get(k))
  return [f'config.{k} (saved {saved.get(k)!r}, now {mine.get(k)!r})' for k in fields]


def check_config(config: Mapping[str, Any], saved: Mapping[str, Any], where: epath.Path) -> None:
  """Refuses to go on under settings that change what the run computes.

  Raises:
    UserError: naming the settings that differ.
  """
  fields = _different(config, saved)
  if fields:
    raise UserError(f'{where} was written under other settings: {"; ".join(fields)}. Use those, or another --workdir.')


def _all_processes(ok: bool) -> bool:
  return ok if jax.process_count() == 1 else bool(np.all(multihost_utils.process_allgather(np.asarray(ok))))


class _Manager(ocp.CheckpointManager):
  """Leaves it to the train loop to ask whether to stop.

  Every save of orbax asks JAX's sync point too, under its own step number. JAX answers yes to one number only, the one
  after the last that was asked: numbers of two kinds let the loop miss it, and train on after SIGTERM.
  """

  def reached_preemption(self, step: int) -> bool:
    """Never: `Preemption` alone asks."""
    return False


class Checkpoints:
  """The checkpoints of one stage under `directory`, numbered by step.

  Each holds the state and a JSON `meta`: config, stage, step, metrics, leaf types, and a fingerprint per leaf.
  """

  def __init__(self, directory: epath.Path, *, keep: int = 2, best: str = '', best_mode: str = 'max'):
    """Opens `directory`, made if missing; `best` names the metric whose best checkpoint is kept as well."""
    if best_mode not in ('max', 'min'):
      raise UserError(f"config.checkpoint.best_mode={best_mode!r} is not known; it is 'max' or 'min'.")
    policies = ocp.checkpoint_managers
    policy = [policies.LatestN(max(keep, 1))]
    if best:
      policy.append(
        policies.BestN(
          get_metric_fn=lambda metrics: metrics[best],
          n=1,
          reverse=best_mode == 'min',
          keep_checkpoints_without_metrics=False,
        )
      )
    self.directory = directory
    self._best = best
    self._options = ocp.CheckpointManagerOptions(
      preservation_policy=policies.AnyPreservationPolicy(policy),
      best_fn=(lambda metrics: metrics[best]) if best else None,
      best_mode=best_mode,
    )
    self._pending: int | None = None
    try:
      self._manager = _Manager(
        directory,
        options=self._options,
        item_names=('state', 'meta'),
        item_handlers={'state': ocp.StandardCheckpointHandler(), 'meta': ocp.JsonCheckpointHandler()},
      )
    except OSError as error:
      raise UserError(f'The workdir {directory} cannot be used: {error.strerror or error}.') from error

  def steps(self) -> list[int]:
    """Steps that have a checkpoint, rising."""
    return sorted(self._manager.all_steps())

  def save(self, step: int, state: State, meta: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Starts to save; returns before the files are complete. The state may be donated right after."""
    if step in self.steps():
      return
    self.wait()
    meta = {
      **meta,
      'step': step,
      'metrics': dict(metrics),
      'leaves': leaf_types(state),
      'fingerprints': fingerprints(state),
    }
    ranked = dict(metrics) if self._best in metrics else None
    self._pending = step
    try:
      saved = self._manager.save(
        step,
        args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)),
        metrics=ranked,
      )
    except Exception as error:
      raise UserError(f'Step {step} was not saved to {self.directory}: {error}.') from error
    if not saved:
      raise UserError(f'Step {step} was not saved to {self.directory}: a checkpoint of that step is in the way.')

  def wait(self) -> None:
    """Until the last save is complete.

    Raises:
      UserError: naming the step that could not be saved.
    """
    try:
      self._manager.wait_until_finished()
    except Exception as error:
      raise UserError(f'Step {self._pending} was not saved to {self.directory}: {error}.') from error

  def close(self) -> None:
    """Completes the last save and releases the directory."""
    self.wait()
    self._manager.close()

  def read_meta(self, step: int) -> dict[str, Any]:
    """The JSON beside the state of `step`; any exception means damage."""
    return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))['meta']

  def restore_latest(
    self, abstract: State, config: Mapping[str, Any], warn: Any = logging.warning
  ) -> tuple[State, dict[str, Any]] | None:
    """The newest checkpoint that is whole, or None where there is none.

    A damaged one is reported through `warn`, renamed `damaged-STEP`, and the one before is tried. All processes take
    the same one.

    Args:
      abstract: the state to restore as ShapeDtypeStruct with shardings.
      config: settings of this run; see `check_config`.
      warn: called with one sentence for each damaged checkpoint.

    Raises:
      UserError: if the checkpoint is of other settings or of another state.
      DamagedError: if there are checkpoints and all are damaged.
    """
    damaged = []
    for step in reversed(self.steps()):
      meta = self._attempt(lambda step=step: self.read_meta(step))
      if not isinstance(meta, Exception):
        check_config(config, meta['config'], self.directory)
        _check_leaves(abstract, meta['leaves'], self.directory)
        state = self._attempt(
          lambda step=step: self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
          )['state']
        )
        if not isinstance(state, Exception):
          wrong = _altered(state, meta['fingerprints'])
          if _all_processes(not wrong):
            return state, meta
          state = ValueError(f'{", ".join(wrong[:3])} changed on disk')
      cause = meta if isinstance(meta, Exception) else state
      self._set_aside(step)
      damaged.append(step)
      warn(f'Checkpoint {step} in {self.directory} is damaged ({_first_line(cause)}); set aside as damaged-{step}.')
    if damaged:
      raise DamagedError(
        f'Every checkpoint in {self.directory} is damaged (steps {", ".join(map(str, damaged))}); '
        'they are now named damaged-STEP. Start again under another --workdir, or restore the files.'
      )
    return None

  def restore_raw(self, step: int) -> tuple[PyTree, dict[str, Any]]:
    """State without a target (nested dicts) and meta of `step`, verified.

    Raises:
      UserError: if it is damaged.
    """
    meta = self._attempt(lambda: self.read_meta(step))
    state = meta
    if not isinstance(meta, Exception):
      state = self._attempt(lambda: self._restore_as_saved(step))
    if not isinstance(state, Exception):
      wrong = _altered(state, meta['fingerprints'])
      if not wrong:
        return state, meta
      state = ValueError(f'{", ".join(wrong[:3])} changed on disk')
    raise UserError(f'Checkpoint {step} in {self.directory} is damaged ({_first_line(state)}).')

  def _restore_as_saved(self, step: int) -> PyTree:
    # The number of devices may be another than when it was saved: every leaf is asked for whole.
    everywhere = NamedSharding(Mesh(np.array(jax.devices()), 'all'), PartitionSpec())
    tree = self._manager.item_metadata(step)['state'].tree
    target = jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=everywhere), tree)
    return self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target)))['state']

  def _attempt(self, read: Any) -> Any:
    """The result of `read`, or the exception; an exception on one process is one on all."""
    try:
      result = read()
    except PermissionError as error:
      raise UserError(f'The workdir {self.directory} cannot be read: {error.strerror}.') from error
    except Exception as error:  # orbax raises whatever its parsers raise
      result = error
    if _all_processes(not isinstance(result, Exception)):
      return result
    return result if isinstance(result, Exception) else RuntimeError('another process could not read it')

  def _set_aside(self, step: int) -> None:
    if jax.process_index() == 0:
      target = self.directory / f'damaged-{step}'
      number = 1
      while target.exists():
        number += 1
        target = self.directory / f'damaged-{step}-{number}'
      (self.directory / str(step)).rename(target)
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices(f'damaged-{step}')
    self._manager.reload()


def _first_line(error: Exception) -> str:
  lines = str(error).strip().splitlines()
  return f'{type(error).__name__}: {lines[0][:160]}' if lines else type(error).__name__


def _altered(state: State, expected: Mapping[str, int]) -> list[str]:
  found = fingerprints(state)
  return [name for name, value in found.items() if expected.get(name) != value]


def _check_leaves(abstract: State, saved: Mapping[str, str], where: epath.Path) -> None:
  mine = leaf_types(abstract)
  names = sorted(k for k in {*mine, *saved} if mine.get(k) != saved.get(k))
  if names:
    parts = [f'{k} (saved {saved.get(k, "absent")}, now {mine.get(k, "absent")})' for k in names[:5]]
    more = f' and {len(names) - 5} more' if len(names) > 5 else ''
    raise UserError(f'{where} holds another model: {"; ".join(parts)}{more}.')
