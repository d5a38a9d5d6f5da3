"""Names and layouts of the head's parameters in the published state dicts."""

import re
from collections.abc import Sequence

import numpy as np

Path = tuple[str, ...]

_ATTENTIONS = {'self_attention': 0, 'cross_attention': 1}
_LEAVES = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}
_HEAD_LEAVES = {
  'kernel_0': '0.weight',
  'scale': '1.weight',
  'bias_0': '1.bias',
  'kernel_1': '3.weight',
  'bias_1': '3.bias',
}


def head_keys(path: Path, layers: int) -> tuple[str, ...]:
  """Published names whose arrays make one leaf of the head, without the prefix `pts_bbox_head.`.

  Args:
    path: of the leaf inside the head, with or without the collection: ('decoder', 'post_norm', 'scale').
    layers: of the decoder; a leaf of its stacked layers takes one array from each.

  Raises:
    KeyError: for a path that is no leaf of the head.
  """
  path = path[1:] if path[0] in ('params', 'batch_stats') else path
  match path:
    case ('reference_points',):
      return ('reference_points.weight',)
    case (('bev_embedding' | 'rv_embedding') as module, 'layer0' | 'layer1' as layer, leaf):
      return (f'{module}.{2 * int(layer[-1])}.{_LEAVES[leaf]}',)
    case ('shared_conv', 'conv' | 'norm' as part, leaf):
      return (f'shared_conv.{"conv" if part == "conv" else "bn"}.{_LEAVES[leaf]}',)
    case ('decoder', 'post_norm', leaf):
      return (f'transformer.decoder.post_norm.{_LEAVES[leaf]}',)
    case ('decoder', 'layers', *rest):
      return tuple(f'transformer.decoder.layers.{layer}.{_layer_key(rest)}' for layer in range(layers))
    case ('task_heads', module, leaf):
      task, name = re.fullmatch(r'task(\d+)_(\w+)', module).groups()
      return (f'task_heads.{task}.{name}.{_HEAD_LEAVES[leaf]}',)
  raise KeyError(f'{"/".join(path)} is no parameter of the head')


def _layer_key(rest: Sequence[str]) -> str:
  match tuple(rest):
    case (attention, 'in_proj_kernel' | 'in_proj_bias' as leaf):
      return f'attentions.{_ATTENTIONS[attention]}.attn.{leaf.replace("kernel", "weight")}'
    case (attention, 'out_proj', leaf):
      return f'attentions.{_ATTENTIONS[attention]}.attn.out_proj.{_LEAVES[leaf]}'
    case ('ffn_0', leaf):
      return f'ffns.0.layers.0.0.{_LEAVES[leaf]}'
    case ('ffn_1', leaf):
      return f'ffns.0.layers.1.{_LEAVES[leaf]}'
    case (norm, leaf):
      return f'norms.{norm.removeprefix("norm_")}.{_LEAVES[leaf]}'
  raise KeyError(f'{"/".join(rest)} is no parameter of a decoder layer')


def _is(path: Path, module: str) -> bool:
  return module in path


def leaf_from_official(path: Path, arrays: Sequence[np.ndarray], layers: int) -> np.ndarray:
  """Arrays of `head_keys` in the published layout -> the leaf."""
  if _is(path, 'task_heads'):
    (array,) = arrays
    split = array.reshape(layers, -1, *array.shape[1:])
    return split.transpose(0, 3, 2, 1) if split.ndim == 4 else split
  if _is(path, 'layers'):
    return np.stack([array.T for array in arrays])
  (array,) = arrays
  if path[-1] == 'kernel':
    return array.transpose((2, 3, 1, 0) if array.ndim == 4 else (1, 0))
  return array


def leaf_to_official(path: Path, leaf: np.ndarray) -> tuple[np.ndarray, ...]:
  """Inverse of `leaf_from_official`."""
  if _is(path, 'task_heads'):
    rows = leaf.transpose(0, 3, 2, 1) if leaf.ndim == 4 else leaf
    return (rows.reshape(-1, *rows.shape[2:]),)
  if _is(path, 'layers'):
    return tuple(layer.T for layer in leaf)
  if path[-1] == 'kernel':
    return (leaf.transpose((3, 2, 0, 1) if leaf.ndim == 4 else (1, 0)),)
  return (leaf,)
