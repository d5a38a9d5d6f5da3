"""The authors' weights: import by name, strictly, and export."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.emo.model import EMO
from jaxpapers.engine.errors import UserError

State = Mapping[str, Any]
Variables = dict[str, Any]
Path = tuple[str, ...]  # ('params', 'stage3_block1', 'qk', 'kernel')

_LEAVES = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}
_PARTS = {
  ('norm',): 'norm',
  ('qk',): 'qk.conv',
  ('v',): 'v.conv',
  ('local',): 'conv_local.conv',
  ('local_norm',): 'conv_local.norm',
  ('se', 'reduce'): 'se.conv_reduce',
  ('se', 'expand'): 'se.conv_expand',
  ('proj',): 'proj.conv',
}
_COUNTER = 'num_batches_tracked'


def block_key(path: Path, batch_norm: bool) -> str:
  """The official name, inside its block, of a leaf of an IRMB; `batch_norm` says what the block's `norm` is."""
  part = _PARTS[path[1:-1]]
  if part == 'norm' and not batch_norm:
    part = 'norm.norm'  # a layer norm sits in a wrapper of the same name
  return f'{part}.{_LEAVES[path[-1]]}'


def model_key(path: Path, batch_norm: bool) -> str:
  """The official name of a leaf of an EMO."""
  _, top, *rest = path
  leaf = _LEAVES[path[-1]]
  if top == 'stem':
    inside = {'conv': '0.convs.0.0', 'norm': '0.convs.0.1'}.get(rest[0])
    return f'stage0.{inside}.{leaf}' if inside else f'stage0.1.{block_key(path[2:], batch_norm)}'
  if found := re.fullmatch(r'stage(\d)_block(\d+)', top):
    return f'stage{found[1]}.{found[2]}.{block_key(path[1:], batch_norm)}'
  return {'norm': 'norm' if batch_norm else 'norm.norm', 'pre_head': 'pre_head.0', 'head': 'head'}[top] + f'.{leaf}'


def take(template: Variables, key_of: Callable[[Path, bool], str], state: State) -> tuple[Variables, dict[str, Any]]:
  """Fills variables from official arrays.

  Args:
    template: variables, or their shapes as `jax.eval_shape` gives them.
    key_of: (path of a leaf, whether the norm it may belong to is a batch norm) -> official name.
    state: official name -> array. Convolutions are OIHW, linear maps (out, in).

  Returns:
    (variables like the template as float32 numpy arrays, the entries of `state` that no leaf took).

  Raises:
    UserError: naming every missing and every misshapen entry.
  """
  leaves = flax.traverse_util.flatten_dict(template)
  rest, problems, taken = dict(state), [], {}
  for path, leaf in leaves.items():
    key = key_of(path, _in_batch_norm(path, leaves))
    value = rest.pop(key, None)
    rest.pop(f'{key.rpartition(".")[0]}.{_COUNTER}', None)
    if value is None:
      problems.append(f'{key} is missing')
      continue
    value = _from_official(np.asarray(value, np.float32), path[-1], len(leaf.shape))
    if value is None or value.shape != tuple(leaf.shape):
      want = _official_shape(path[-1], tuple(leaf.shape))
      problems.append(f'{key} has shape {tuple(np.shape(state[key]))}, not {want}')
    taken[path] = value
  if problems:
    raise UserError(f'The weights do not fit: {"; ".join(problems)}.')
  return flax.traverse_util.unflatten_dict(taken), rest


def import_official(state: State, model: EMO, *, allow_unexpected: Sequence[str] = ()) -> Variables:
  """Variables of `model` from a released checkpoint.

  Args:
    state: name -> array: the released state dict, with or without a `module.` prefix, or a trainer checkpoint, nested
      or flattened with dots, whose averaged weights `net_E` are taken where it has them, else `net`.
    model: of the same sizes; windows are free, since no weight depends on them.
    allow_unexpected: regular expressions of names that may be left over, such as r'head\\.'.

  Returns:
    {'params': ..., 'batch_stats': ...}, float32 numpy arrays.

  Raises:
    UserError: naming every missing, unexpected and misshapen entry.
  """
  return _import(network_state(state), model, '__call__', allow_unexpected)


def import_backbone(state: State, model: EMO, prefix: str = 'backbone.') -> tuple[Variables, dict[str, Any]]:
  """The backbone (no final norm, no classifier) of a dense model from its state dict.

  Args:
    state: name -> array of the whole dense model.
    model: the backbone.
    prefix: of the backbone's names.

  Returns:
    (variables of the backbone, all entries outside the prefix).

  Raises:
    UserError: naming every missing, unexpected and misshapen entry of the backbone.
  """
  state = network_state(state)
  inside = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
  outside = {key: value for key, value in state.items() if not key.startswith(prefix)}
  return _import(inside, model, 'features', ()), outside


def export_official(variables: Variables, key_of: Callable[[Path, bool], str] = model_key) -> dict[str, np.ndarray]:
  """Inverse of `import_official`: official names, layouts and, for each batch norm, its counter (0)."""
  leaves = flax.traverse_util.flatten_dict(variables)
  state = {}
  for path, leaf in leaves.items():
    key = key_of(path, _in_batch_norm(path, leaves))
    state[key] = _to_official(np.asarray(leaf, np.float32), path[-1])
    if path[-1] == 'var':
      state[f'{key.rpartition(".")[0]}.{_COUNTER}'] = np.zeros((), np.int64)
  return state


def network_state(state: State) -> dict[str, Any]:
  """The network's own entries of a checkpoint: averaged weights first, prefixes of the trainer and of DDP removed."""
  for level in ('net_E', 'net', 'state_dict'):
    if isinstance(state.get(level), Mapping):
      state = state[level]
      break
    flat = {key[len(level) + 1 :]: value for key, value in state.items() if key.startswith((f'{level}.', f'{level}/'))}
    if flat:
      state = flat
      break
  return {key.removeprefix('module.'): value for key, value in state.items()}


def _import(state: State, model: EMO, method: str, allow_unexpected: Sequence[str]) -> Variables:
  template = shapes(model, jnp.zeros((1, 32, 32, 3)), method=method)
  problems = []
  try:
    variables, rest = take(template, model_key, state)
  except UserError as error:
    problems.append(str(error).removesuffix('.'))
    known = {model_key(p, b) for p, b in _paths(template)}
    rest = {key: value for key, value in state.items() if key not in known and not key.endswith(_COUNTER)}
  unexpected = [key for key in rest if not any(re.match(pattern, key) for pattern in allow_unexpected)]
  if unexpected:
    problems.append(f'Unexpected entries: {", ".join(unexpected)}')
  if problems:
    raise UserError('. '.join(problems) + '.')
  return variables


def shapes(module: nn.Module, *args: Any, method: str = '__call__') -> Variables:
  """Shapes of the module's variables, without computing them."""
  key = jax.random.key(0)
  return jax.eval_shape(lambda *args: module.init({'params': key, 'dropout': key}, *args, method=method), *args)


def _paths(template: Variables) -> list[tuple[Path, bool]]:
  leaves = flax.traverse_util.flatten_dict(template)
  return [(path, _in_batch_norm(path, leaves)) for path in leaves]


def _in_batch_norm(path: Path, leaves: Mapping[Path, Any]) -> bool:
  """Whether the module that owns the leaf keeps running statistics."""
  return ('batch_stats', *path[1:-1], 'mean') in leaves


def _from_official(value: np.ndarray, leaf: str, rank: int) -> np.ndarray | None:
  """OIHW to HWIO, depthwise (C, 1, k, k) to (k, k, C), linear (O, I) to (I, O); None where the rank is wrong."""
  if leaf != 'kernel':
    return value
  if rank == 2:
    return value.T if value.ndim == 2 else None
  if value.ndim != 4 or (rank == 3 and value.shape[1] != 1):
    return None
  return value[:, 0].transpose(1, 2, 0) if rank == 3 else value.transpose(2, 3, 1, 0)


def _to_official(value: np.ndarray, leaf: str) -> np.ndarray:
  if leaf != 'kernel':
    return value
  if value.ndim == 3:
    return value.transpose(2, 0, 1)[:, None]
  return value.T if value.ndim == 2 else value.transpose(3, 2, 0, 1)


def _official_shape(leaf: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  return _to_official(np.empty(shape, np.bool_), leaf).shape
