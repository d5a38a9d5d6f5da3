"""Official Mask2Former state dicts as variables of `Mask2Former`, strictly."""

import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from jaxpapers.layers import torch_state
from jaxpapers.reft.model import Mask2Former

Path = tuple[str, ...]
_LEAVES = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}
_PIXEL = 'sem_seg_head.pixel_decoder.'
_DECODER = 'sem_seg_head.predictor.'
_ATTENTION = {'query': 0, 'key': 1, 'value': 2}
_LOSS_BUFFER = 'criterion.empty_weight'


def import_official(state: Mapping[str, Any], model: Mask2Former, size: tuple[int, int] = (64, 64)) -> dict[str, Any]:
  """Variables of a Mask2Former from a released state dict. Source: the names of Mask2Former's code.

  Args:
    state: name -> array; names of old files (`static_query`, no `pixel_decoder.`) are accepted.
    model: the network that the weights are for.
    size: (height, width) of the image that shapes are taken from.

  Raises:
    ValueError: naming every missing, misshapen and unexpected entry.
  """
  template = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, *size, 3), np.float32))
  return import_variables(state, template)


def import_variables(state: Mapping[str, Any], template: Mapping[str, Any]) -> dict[str, Any]:
  """As `import_official`, for a template of variables; parts of a model are imported by their names in the whole."""
  layers = _scanned(template)
  flat = {}
  for path, leaf in flax.traverse_util.flatten_dict(dict(template)).items():
    if 'encoder' not in path:
      flat[path] = leaf
    else:
      one = jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
      flat.update({_layer_path(path, index): one for index in range(layers)})
  filled = torch_state.from_torch(_modern(state), flax.traverse_util.unflatten_dict(flat), official_key)
  result, stacks = {}, {}
  for path, value in flax.traverse_util.flatten_dict(filled).items():
    found = next((i for i, name in enumerate(path) if name.startswith('encoder_')), None)
    if found is None:
      result[path] = value
    else:
      stacks.setdefault((*path[:found], 'encoder', *path[found + 1 :]), {})[int(path[found][8:])] = value
  result.update({path: np.stack([parts[i] for i in range(layers)]) for path, parts in stacks.items()})
  return flax.traverse_util.unflatten_dict(result)


def _scanned(template) -> int:
  """Layers of the encoder, which share one stacked leaf."""
  flat = flax.traverse_util.flatten_dict(dict(template))
  return next((leaf.shape[0] for path, leaf in flat.items() if 'encoder' in path), 0)


def _layer_path(path: Path, index: int) -> Path:
  return tuple(f'encoder_{index}' if name == 'encoder' else name for name in path)


def _modern(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Names of newer files; rows of the merged attention projections under names of their own."""
  result = {}
  for key, value in state.items():
    if key == _LOSS_BUFFER:
      continue
    key = key.replace('.static_query.', '.query_feat.')
    if key.startswith('sem_seg_head.') and not key.startswith((_PIXEL, _DECODER)):
      key = _PIXEL + key.removeprefix('sem_seg_head.')
    if key.endswith(('in_proj_weight', 'in_proj_bias')):
      parts = np.split(np.asarray(value), 3) if len(value) % 3 == 0 else [np.asarray(value)] * 3
      for name, part in zip(_ATTENTION, parts, strict=True):
        result[key.replace('in_proj_', f'in_proj.{name}.')] = part
    else:
      result[key] = value
  return result


def official_key(path: Path) -> str:
  """The official name of a leaf of `Mask2Former`; rows of `in_proj_weight` are `in_proj.query.weight` and so on."""
  _, part, *inner = path
  *modules, leaf = inner
  if part == 'backbone':
    return _backbone(modules, leaf)
  if part == 'pixel_decoder':
    return _PIXEL + _pixel(modules, leaf)
  if part == 'decoder':
    return _DECODER + _decoder(modules, leaf)
  raise ValueError(f'{"/".join(path)} is no leaf of Mask2Former.')


def _backbone(modules, leaf):
  block = re.fullmatch(r'layer(\d+)_(\d+)', modules[0])
  prefix = f'backbone.res{int(block[1]) + 1}.{block[2]}' if block else 'backbone.stem'
  name = modules[-1].replace('downsample_conv', 'shortcut').replace('downsample_bn', 'shortcut.norm')
  name = re.sub(r'^bn(\d)$', r'conv\1.norm', name)
  return f'{prefix}.{name}.{_LEAVES[leaf]}'


def _pixel(modules, leaf):
  if not modules:
    return 'transformer.level_embed'
  name = modules[0]
  if found := re.fullmatch(r'encoder_(\d+)', name):
    rest = [m for m in modules[1:] if m != 'ffn']
    last = 'norm2' if 'ffn' in modules and rest == ['norm'] else '.'.join(rest)
    return f'transformer.encoder.layers.{found[1]}.{last}.{_LEAVES[leaf]}'
  if found := re.fullmatch(r'input_(proj|norm)(\d+)', name):
    return f'input_proj.{found[2]}.{int(found[1] == "norm")}.{_LEAVES[leaf]}'
  named = {'lateral': 'adapter_1', 'lateral_norm': 'adapter_1.norm', 'output': 'layer_1', 'output_norm': 'layer_1.norm'}
  return f'{named.get(name, name)}.{_LEAVES[leaf]}'


def _decoder(modules, leaf):
  if not modules:
    return f'{leaf}.weight'
  name = modules[0]
  if name == 'norm':
    return f'decoder_norm.{_LEAVES[leaf]}'
  if name == 'classifier':
    return f'class_embed.{_LEAVES[leaf]}'
  if name == 'mask_head':
    return f'mask_embed.layers.{modules[1][5:]}.{_LEAVES[leaf]}'
  index, rest = name.removeprefix('layer'), modules[1:]
  if rest[0] == 'ffn':
    return f'transformer_ffn_layers.{index}.{rest[1]}.{_LEAVES[leaf]}'
  kind, inner = ('cross', 'multihead_attn') if rest[0].startswith('cross') else ('self', 'self_attn')
  prefix = f'transformer_{kind}_attention_layers.{index}'
  if rest[0].endswith('norm'):
    return f'{prefix}.norm.{_LEAVES[leaf]}'
  if rest[1] == 'out':
    return f'{prefix}.{inner}.out_proj.{_LEAVES[leaf]}'
  return f'{prefix}.{inner}.in_proj.{rest[1]}.{_LEAVES[leaf]}'


def official_shapes(template: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
  """Names and shapes of the state dict that fits a template of variables."""
  return {key: tuple(value.shape) for key, value in _named(template, np.zeros).items()}


def export_variables(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Inverse of `import_variables`: a state dict under the official names."""
  return _named(variables, None)


def _named(variables, make):
  """Official names of all leaves, PyTorch's layout, the rows of the attention projections merged."""
  flat = {}
  for path, leaf in flax.traverse_util.flatten_dict(dict(variables)).items():
    value = make(leaf.shape, np.float32) if make else np.asarray(leaf)
    if 'encoder' in path:
      flat.update({_layer_path(path, i): part for i, part in enumerate(value)})
    else:
      flat[path] = value
  state = torch_state.to_torch(flax.traverse_util.unflatten_dict(flat), official_key)
  result, merged = {}, {}
  for key, value in state.items():
    found = re.fullmatch(r'(.*in_proj)\.(query|key|value)\.(weight|bias)', key)
    if found:
      merged.setdefault(f'{found[1]}_{found[3]}', {})[found[2]] = value
    elif not key.endswith('num_batches_tracked'):
      result[key] = value
  result.update({key: np.concatenate([parts[name] for name in _ATTENTION]) for key, parts in merged.items()})
  return result
