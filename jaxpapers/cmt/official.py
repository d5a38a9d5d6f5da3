"""The authors' weights of the four published models: import by name, strictly, and export."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.cmt import official_head
from jaxpapers.cmt.model import CMT
from jaxpapers.engine.errors import UserError
from jaxpapers.layers.resnet import torchvision_key

Path = tuple[str, ...]  # ('params', 'lidar', 'encoder', 'down1', 'conv', 'kernel')
Variables = Mapping[str, Any]

_LEAVES = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}
_COUNTER = 'num_batches_tracked'
_HEAD = 'pts_bbox_head.'


def import_official(
  state: Mapping[str, Any],
  model: CMT,
  *,
  allow_missing: Sequence[str] = (),
  allow_unexpected: Sequence[str] = (),
) -> dict[str, Any]:
  """Variables of a model from a released state dict. Source: the names of the authors' code.

  Args:
    state: name -> array, as the released files hold them, also under `state_dict.` or `module.`. Kernels of sparse
      convolutions may be in the layout of spconv 1 or of spconv 2. Counters (num_batches_tracked) are not needed.
    model: the network that the weights are for, such as `cmt_r50()`.
    allow_missing: regular expressions of names that may be absent; their leaves are left out of the result.
    allow_unexpected: regular expressions of names that may be left over.

  Returns:
    {'params': ..., 'batch_stats': ...}, float32 numpy arrays.

  Raises:
    UserError: naming every missing, misshapen and unexpected entry.
  """
  return import_variables(state, template(model), allow_missing, allow_unexpected)


def import_variables(
  state: Mapping[str, Any],
  template: Variables,
  allow_missing: Sequence[str] = (),
  allow_unexpected: Sequence[str] = (),
) -> dict[str, Any]:
  """As `import_official`, for variables or their shapes; a part of a model stands where it is in the whole one."""
  leaves = flax.traverse_util.flatten_dict(dict(template))
  layers = _decoder_layers(leaves)
  rest, problems, taken = _arrays(state), [], {}
  for path, leaf in leaves.items():
    wanted = official_shapes(path, tuple(leaf.shape), layers)
    fit = True
    for key, shape in wanted.items():
      if key not in rest:
        fit = False
        if not _matches(key, allow_missing):
          problems.append(f'{key} is missing')
      elif not _fits(rest[key].shape, shape):
        fit = False
        problems.append(f'{key} has shape {rest[key].shape}, not {shape}')
    arrays = [rest.pop(key, None) for key in wanted]
    if fit:
      taken[path] = _to_leaf(path, arrays, layers, tuple(leaf.shape))
  problems += [f'{key} is unexpected' for key in rest if not _matches(key, allow_unexpected)]
  if problems:
    raise UserError(f'These weights do not fit: {"; ".join(problems)}.')
  return flax.traverse_util.unflatten_dict(taken)


def import_parts(state: Mapping[str, Any], parts: Mapping[tuple[str, ...], Variables]) -> dict[tuple[str, ...], Any]:
  """Variables of modules that stand at places such as ('camera', 'backbone') of a model, from one state dict."""
  whole = {
    (collection, *place, *path): leaf
    for place, variables in parts.items()
    for (collection, *path), leaf in flax.traverse_util.flatten_dict(dict(variables)).items()
  }
  filled = flax.traverse_util.flatten_dict(import_variables(state, flax.traverse_util.unflatten_dict(whole)))
  result = {}
  for place in parts:
    inside = {(p[0], *p[1 + len(place) :]): x for p, x in filled.items() if p[1 : 1 + len(place)] == place}
    result[place] = flax.traverse_util.unflatten_dict(inside)
  return result


def export_official(variables: Variables) -> dict[str, np.ndarray]:
  """Inverse of `import_official`: official names, present layouts, and a counter of 0 for every batch norm."""
  leaves = flax.traverse_util.flatten_dict(dict(variables))
  layers = _decoder_layers(leaves)
  state = {}
  for path, leaf in leaves.items():
    arrays = _to_arrays(path, np.asarray(leaf, np.float32))
    state.update(zip(official_keys(path, layers), arrays, strict=True))
    if path[-1] == 'var':
      state[f'{official_keys(path, layers)[0].rpartition(".")[0]}.{_COUNTER}'] = np.zeros((), np.int64)
  return state


def template(model: CMT) -> Variables:
  """Shapes of a model's variables, computed without running it."""
  inputs = {}
  if model.lidar is not None:
    inputs |= {'points': jnp.zeros((1, 1, 5)), 'points_mask': jnp.zeros((1, 1), bool)}
  if model.camera is not None:
    inputs |= {'images': jnp.zeros((1, 1, 64, 64, 3))}
    inputs |= {'lidar2img': jnp.zeros((1, 1, 4, 4)), 'img2lidar': jnp.zeros((1, 1, 4, 4))}
  return jax.eval_shape(lambda inputs: model.init(jax.random.key(0), **inputs), inputs)


def official_names(template: Variables) -> dict[str, tuple[int, ...]]:
  """Names and shapes of the state dict that fits a template of variables, without counters."""
  leaves = flax.traverse_util.flatten_dict(dict(template))
  layers = _decoder_layers(leaves)
  return {k: s for path, leaf in leaves.items() for k, s in official_shapes(path, tuple(leaf.shape), layers).items()}


def official_shapes(path: Path, shape: tuple[int, ...], layers: int) -> dict[str, tuple[int, ...]]:
  """Names and shapes of the official arrays that make one leaf."""
  arrays = _to_arrays(path, np.broadcast_to(np.float32(0), shape))
  return {key: array.shape for key, array in zip(official_keys(path, layers), arrays, strict=True)}


def official_keys(path: Path, layers: int) -> tuple[str, ...]:
  """Official names of a leaf of a CMT; a leaf that all decoder layers share has a name for each of them.

  Raises:
    KeyError: for a path that no published model has.
  """
  match path[1:]:
    case ('head', *inner):
      return tuple(_HEAD + key for key in official_head.head_keys((path[0], *inner), layers))
    case ('camera', 'backbone', *inner):
      return (f'img_backbone.{_image_key(inner)}',)
    case ('camera', 'neck', conv, leaf):
      kind, index = conv[:-1], conv[-1]
      return (f'img_neck.{ {"lateral": "lateral_convs", "output": "fpn_convs"}[kind] }.{index}.conv.{_LEAVES[leaf]}',)
    case ('lidar', 'encoder', *modules, leaf):
      return (f'pts_middle_encoder.{_encoder_key(modules)}.{_LEAVES[leaf]}',)
    case ('lidar', 'backbone', unit, part, leaf):
      stage, index = re.fullmatch(r'stage(\d)_(\d+)', unit).groups()
      return (f'pts_backbone.blocks.{stage}.{3 * int(index) + (part == "norm")}.{_LEAVES[leaf]}',)
    case ('lidar', 'neck', level, part, leaf):
      return (f'pts_neck.deblocks.{level.removeprefix("level")}.{int(part == "norm")}.{_LEAVES[leaf]}',)
  raise KeyError(f'{"/".join(path)} is no parameter of a published CMT.')


def _image_key(inner: Sequence[str]) -> str:
  *modules, leaf = inner
  if found := re.fullmatch(r'stem(\d)', modules[0]):
    return f'stem.stem_{found[1]}/{modules[1]}.{_LEAVES[leaf]}'
  if found := re.fullmatch(r'stage(\d)_(\d)', modules[0]):
    block = f'OSA{found[1]}_{found[2]}'
    prefix = f'stage{found[1]}.{block}'
    if modules[1] == 'ese':
      return f'{prefix}.ese.fc.{_LEAVES[leaf]}'
    if modules[1] == 'concat':
      return f'{prefix}.concat.{block}_concat/{modules[2]}.{_LEAVES[leaf]}'
    index = modules[1].removeprefix('layer')
    return f'{prefix}.layers.{index}.{block}_{index}/{modules[2]}.{_LEAVES[leaf]}'
  return torchvision_key(inner)


def _encoder_key(modules: Sequence[str]) -> str:
  first, part = modules
  unit = int(part == 'norm')
  if found := re.fullmatch(r'down(\d)', first):
    return f'encoder_layers.encoder_layer{found[1]}.2.{unit}'
  if found := re.fullmatch(r'layer(\d)_(\d)', first):
    return f'encoder_layers.encoder_layer{found[1]}.{found[2]}.{part}'
  return f'{first}.{unit}'


def _arrays(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The network's own entries, without the prefixes of trainers and without counters, float32."""
  inside = {key.removeprefix('state_dict.'): x for key, x in state.items() if key.startswith('state_dict.')}
  named = {key.removeprefix('module.'): x for key, x in (inside or state).items()}
  return {key: np.asarray(x, np.float32) for key, x in named.items() if not key.endswith(_COUNTER)}


def _matches(key: str, patterns: Sequence[str]) -> bool:
  return any(re.search(pattern, key) for pattern in patterns)


def _decoder_layers(leaves: Mapping[Path, Any]) -> int:
  return next((leaf.shape[0] for path, leaf in leaves.items() if path[1:4] == ('head', 'decoder', 'layers')), 0)


def _spconv1(shape: tuple[int, ...]) -> tuple[int, ...]:
  """(out, kd, kh, kw, in), the layout of spconv 2, as spconv 1 has it."""
  return (*shape[1:4], shape[4], shape[0])


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
  return shape == wanted or (len(wanted) == 5 and shape == _spconv1(wanted))


def _to_leaf(path: Path, arrays: Sequence[np.ndarray], layers: int, shape: tuple[int, ...]) -> np.ndarray:
  if path[1] == 'head':
    return official_head.leaf_from_official((path[0], *path[2:]), arrays, layers)
  (array,) = arrays
  if array.ndim == 4:
    return array.transpose(2, 3, 1, 0)
  if array.ndim == 5 and array.shape != shape:
    return array.transpose(1, 2, 3, 4, 0)
  return array


def _to_arrays(path: Path, leaf: np.ndarray) -> tuple[np.ndarray, ...]:
  if path[1] == 'head':
    return official_head.leaf_to_official((path[0], *path[2:]), leaf)
  axes = {4: (3, 2, 0, 1), 5: (4, 0, 1, 2, 3)}.get(leaf.ndim, tuple(range(leaf.ndim)))
  return (leaf.transpose(axes),)
