"""State dicts of PyTorch modules as variables, strictly: every entry is used, and every leaf is filled."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.traverse_util
import numpy as np

Path = tuple[str, ...]  # ('params', 'layer1_0', 'conv1', 'kernel')
_COUNTER = 'num_batches_tracked'


def from_torch(
  state: Mapping[str, Any],
  template: Mapping[str, Any],
  key_of: Callable[[Path], str],
  *,
  allow_missing: Sequence[str] = (),
  allow_unused: Sequence[str] = (),
) -> dict[str, Any]:
  """Variables filled from a state dict. Kernels go from OIHW to HWIO and from (out, in) to (in, out).

  Args:
    state: name -> array; batch norm counters (num_batches_tracked) are not needed.
    template: variables, or their shapes as `jax.eval_shape` gives them.
    key_of: path of a leaf -> its name in the state dict.
    allow_missing: regular expressions of names that may be absent; their leaves are left out of the result.
    allow_unused: regular expressions of names that may be left over.

  Returns:
    Variables like the template, numpy arrays in the dtype of `state`'s (floating) or float32.

  Raises:
    ValueError: naming every missing, misshapen and unexpected entry.
  """
  rest = {key: value for key, value in state.items() if not key.endswith(_COUNTER)}
  problems, taken = [], {}
  for path, leaf in flax.traverse_util.flatten_dict(dict(template)).items():
    key = key_of(path)
    if key not in rest:
      if not _matches(key, allow_missing):
        problems.append(f'{key} is missing')
      continue
    value = np.asarray(rest.pop(key))
    value = value if value.dtype == np.float64 else value.astype(np.float32)
    converted = _from_torch(value, path[-1])
    if converted.shape != tuple(leaf.shape):
      problems.append(f'{key} has shape {value.shape}, not {_torch_shape(tuple(leaf.shape), path[-1])}')
    taken[path] = converted
  problems += [f'{key} is unexpected' for key in rest if not _matches(key, allow_unused)]
  if problems:
    raise ValueError(f'These weights do not fit: {"; ".join(problems)}.')
  return flax.traverse_util.unflatten_dict(taken)


def to_torch(variables: Mapping[str, Any], key_of: Callable[[Path], str]) -> dict[str, np.ndarray]:
  """Inverse of `from_torch`, with a counter of 0 for every batch norm."""
  state = {}
  for path, leaf in flax.traverse_util.flatten_dict(dict(variables)).items():
    key, value = key_of(path), np.asarray(leaf)
    axes = _to_torch_axes(value.ndim) if path[-1] == 'kernel' else tuple(range(value.ndim))
    state[key] = value.transpose(axes)
    if path[-1] == 'var':
      state[f'{key.rpartition(".")[0]}.{_COUNTER}'] = np.zeros((), np.int64)
  return state


def _matches(key: str, patterns: Sequence[str]) -> bool:
  return any(re.search(pattern, key) for pattern in patterns)


def _to_torch_axes(ndim: int) -> tuple[int, ...]:
  return {4: (3, 2, 0, 1), 2: (1, 0)}.get(ndim, tuple(range(ndim)))


def _from_torch(value: np.ndarray, leaf: str) -> np.ndarray:
  if leaf != 'kernel' or value.ndim not in (2, 4):
    return value
  return value.transpose((2, 3, 1, 0) if value.ndim == 4 else (1, 0))


def _torch_shape(shape: tuple[int, ...], leaf: str) -> tuple[int, ...]:
  return tuple(shape[axis] for axis in _to_torch_axes(len(shape))) if leaf == 'kernel' else shape
