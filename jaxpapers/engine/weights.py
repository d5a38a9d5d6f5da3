"""Variables taken from another run: trained before, or imported from the authors' weights."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.engine.checkpoint import Checkpoints, workdir_path
from jaxpapers.engine.config import to_json
from jaxpapers.engine.errors import UserError
from jaxpapers.engine.experiment import PyTree
from jaxpapers.engine.parallel import path_name
from jaxpapers.engine.training import TrainState

IMPORTED = 'imported'


def save_variables(workdir: str, config: Any, variables: Mapping[str, PyTree]) -> None:
  """Writes `variables` ({'params': ..., further collections}) as a workdir that `load_variables` and evaluation take.

  Raises:
    UserError: if the workdir already holds checkpoints.
  """
  path = workdir_path(workdir)
  if (path / 'checkpoints').exists():
    raise UserError(f'{path} already holds checkpoints; name another --workdir.')
  variables = jax.tree.map(jnp.asarray, dict(variables))
  params = variables.pop('params')
  state = TrainState(jnp.zeros((), jnp.int32), params, variables, (), None)
  (path).mkdir(parents=True, exist_ok=True)
  (path / 'config.json').write_text(to_json(config))
  checkpoints = Checkpoints(path / 'checkpoints' / IMPORTED, keep=1)
  checkpoints.save(0, state, {'config': json.loads(to_json(config)), 'stage': IMPORTED}, {})
  checkpoints.close()


def load_variables(workdir: str, prefer: Sequence[str] = (), ema: bool | None = None) -> dict[str, PyTree]:
  """Variables {'params': ..., 'batch_stats': ..., ...} of a workdir, as numpy arrays.

  Args:
    workdir: written by training or by `launch/import_weights.py`.
    prefer: stages to look for, in this order; where there is none of them, the imported weights if any, else the stage
      that the run reached last.
    ema: take the moving average; by default where one was kept.

  Raises:
    UserError: if there is no checkpoint, or it is damaged, or its state holds no parameters.
  """
  path = workdir_path(workdir)
  root = path / 'checkpoints'
  if not root.exists():
    raise UserError(f'{path} holds no checkpoints: name a workdir that training or import_weights wrote.')
  with_steps = {}
  for folder in root.iterdir():
    found = [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []
    if found:
      with_steps[folder.name] = max(found)
  if not with_steps:
    raise UserError(f'{path} holds no complete checkpoint.')
  wanted = [stage for stage in (*prefer, IMPORTED) if stage in with_steps]
  name = wanted[0] if wanted else _last(path, list(with_steps))
  checkpoints = Checkpoints(root / name)
  state, _ = checkpoints.restore_raw(with_steps[name])
  checkpoints.close()
  if not isinstance(state, Mapping) or 'params' not in state:
    raise UserError(f'Stage {name!r} of {path} holds no parameters.')
  if ema and state.get('ema') is None:
    raise UserError(f'Stage {name!r} of {path} kept no moving average.')
  use_ema = state.get('ema') is not None if ema is None else ema
  source = state['ema'] if use_ema else state
  return jax.tree.map(np.asarray, {'params': source['params'], **(source.get('model_state') or {})})


def _last(path: Any, names: list[str]) -> str:
  """The stage that the run reached last, by the order that it wrote down."""
  order_file = path / 'stages.json'
  order = json.loads(order_file.read_text()) if order_file.exists() else sorted(names)
  return [name for name in order if name in names][-1]


def merge_variables(
  initial: Mapping[str, PyTree],
  loaded: Mapping[str, PyTree],
  *,
  allow_missing: Sequence[str] = (),
  allow_unused: Sequence[str] = (),
  report: Callable[[str], None] = print,
) -> dict[str, PyTree]:
  """`initial` with every leaf replaced by the one of the same path in `loaded`.

  Args:
    initial: variables after initialisation (arrays or tracers).
    loaded: variables of another run.
    allow_missing: regular expressions over paths such as 'params/head/kernel' that may keep their initial value, also
      where the loaded one has another shape.
    allow_unused: regular expressions over paths of `loaded` that may be left out.
    report: told, in one sentence, which leaves kept their initial value.

  Raises:
    UserError: naming the leaves that are missing, of another shape, or unused.
  """
  leaves = jax.tree_util.tree_leaves_with_path(initial)
  source = {path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(loaded)}

  def allowed(name, patterns):
    return any(re.search(pattern, name) for pattern in patterns)

  fresh, problems, result = [], [], []
  for path, leaf in leaves:
    name = path_name(path)
    value = source.pop(name, None)
    if value is not None and np.shape(value) == leaf.shape:
      result.append(jnp.asarray(value, leaf.dtype))
      continue
    if allowed(name, allow_missing):
      fresh.append(name)
    else:
      problems.append(
        f'{name} is missing' if value is None else f'{name} has shape {np.shape(value)}, not {leaf.shape}'
      )
    result.append(leaf)
  problems += [f'{name} is not in this model' for name in source if not allowed(name, allow_unused)]
  if problems:
    more = f'; and {len(problems) - 8} more' if len(problems) > 8 else ''
    raise UserError(f'The weights do not fit this model: {"; ".join(problems[:8])}{more}.')
  if fresh:
    report(f'{len(fresh)} leaves are new and keep their initial value: {", ".join(fresh)}.')
  return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(initial), result)
