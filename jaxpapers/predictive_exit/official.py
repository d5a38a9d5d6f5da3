"""Weights under the authors' names and under torchvision's: import by name, strictly, and export."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.predictive_exit.model import MultiExit
from jaxpapers.predictive_exit.vgg import POOL, ConvNet

State = Mapping[str, Any]
Variables = dict[str, Any]
Path = tuple[str, ...]  # ('params', 'backbone', 'conv1', 'kernel')

_LEAVES = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}
_COUNTER = 'num_batches_tracked'
HOW_TO_EXPORT = (
  "The authors' files are pickled modules, which are never opened here: in their environment, "
  'torch.save(torch.load(FILE).state_dict(), NEW_FILE).'
)


def official_key(path: Path) -> str:
  """The authors' name of a leaf of `vgg19`, `vgg19_stl10`, `resnet34` or `digits_bof`."""
  _, part, module, *rest = path
  leaf = _LEAVES.get(path[-1], path[-1])
  if part == 'heads':
    inner = '.'.join(rest[:-1])
    return f'{module}.{inner}.{leaf}' if inner else f'{module}.{leaf}'
  stem = {'stem_conv': 'pre.0', 'stem_bn': 'pre.1'}
  return f'{stem.get(module, module)}.{leaf}'


def torchvision_key(model: MultiExit) -> Callable[[Path], str]:
  """(path of a leaf of a pooled network) -> torchvision's name; the stacked heads are `exits.*`."""
  if isinstance(model.backbone, ConvNet):
    modules = _features(model.backbone)
  else:
    modules = {'stem_conv': 'conv1', 'stem_bn': 'bn1', 'fc': 'fc'}

  def key(path: Path) -> str:
    _, part, module, *_ = path
    if part == 'heads':
      return f'exits.{module}'
    if module not in modules:
      stage, block, name = re.fullmatch(r'layer(\d)_block(\d+)_(\w+)', module).groups()
      name = {'shortcut': 'downsample.0', 'bn3': 'downsample.1'}.get(name, name)
      return f'layer{stage}.{int(block) - 1}.{name}.{_LEAVES[path[-1]]}'
    return f'{modules[module]}.{_LEAVES[path[-1]]}'

  return key


def _features(backbone: ConvNet) -> dict[str, str]:
  """Module -> torchvision's name: three entries of `features` for a convolution, one for a pool."""
  names, index, number = {}, 0, 0
  for width in backbone.widths:
    if width == POOL:
      index += 1
      continue
    number += 1
    names |= {f'conv{number}': f'features.{index}', f'bn{number}': f'features.{index + 1}'}
    index += 3
  if backbone.hidden:
    return names | {'fc_hidden1': 'classifier.0', 'fc_hidden2': 'classifier.3', 'fc': 'classifier.6'}
  return names | {'fc': 'classifier'}


def keys_of(model: MultiExit) -> Callable[[Path], str]:
  """The naming that belongs to `model`: the authors' for their exits, torchvision's for pooled ones."""
  return torchvision_key(model) if _pooled(model) else official_key


def _pooled(model: MultiExit) -> bool:
  return hasattr(model.heads, 'grid')


def import_official(state: State, model: MultiExit, *, channels: int = 3, report: Callable[[str], None] = print):
  """Variables of `model` from a state dict. Source: the names of the authors' code.

  Args:
    state: name -> array; convolutions OIHW, linear maps (out, in). `num_batches_tracked` is passed over.
    model: of the same sizes.
    channels: of its images.
    report: told, in one sentence, where pooled exits are absent from `state` and keep their initial values. Every other
      name must be there.

  Returns:
    {'params': ..., 'batch_stats': ...}, numpy arrays of the dtype of `state` (float32 at least).

  Raises:
    ValueError: naming every missing, unexpected and misshapen entry.
  """
  state = {name.removeprefix('module.'): value for name, value in state.items() if not name.endswith(_COUNTER)}
  if not state or not all(hasattr(value, 'shape') for value in state.values()):
    raise ValueError(f'The weights must be a plain state dict, name -> array. {HOW_TO_EXPORT}')
  template = flax.traverse_util.flatten_dict(_shapes(model, channels))
  key_of = keys_of(model)
  problems, misshapen, taken, fresh, rest = [], [], {}, [], dict(state)
  for path, leaf in template.items():
    key = key_of(path)
    value = rest.pop(key, None)
    if value is None:
      if key.startswith('exits.'):
        fresh.append(path)
      else:
        problems.append(f'{key} is missing')
      continue
    value = np.asarray(value)
    value = _from_official(value.astype(np.promote_types(value.dtype, np.float32)), path[-1], len(leaf.shape))
    if value is None or value.shape != leaf.shape:
      misshapen.append(f'{key} {tuple(np.shape(state[key]))} != {_official_shape(path[-1], leaf.shape)}')
    taken[path] = value
  # Shapes first: they tell best which network the weights are of.
  problems = misshapen + problems + [f'{key} is not in this network' for key in rest]
  if problems:
    shown, more = problems[:12], len(problems) - 12
    tail = f'; and {more} more' if more > 0 else ''
    raise ValueError(f'The weights do not fit this network: {"; ".join(shown)}{tail}.')
  if fresh:
    initial = flax.traverse_util.flatten_dict(_initial(model, channels))
    taken |= {path: np.asarray(initial[path]) for path in fresh}
    report(f'The weights hold no exits: {", ".join(map(key_of, fresh))} keep their initial values.')
  return flax.traverse_util.unflatten_dict(taken)


def export_official(variables: Variables, model: MultiExit) -> dict[str, np.ndarray]:
  """Inverse of `import_official`; works for gradients {'params': ...} too."""
  key_of = keys_of(model)
  leaves = flax.traverse_util.flatten_dict(variables)
  return {key_of(path): _to_official(np.asarray(leaf), path[-1]) for path, leaf in leaves.items()}


def _shapes(model: MultiExit, channels: int) -> Variables:
  image = jax.ShapeDtypeStruct((1, model.image_size, model.image_size, channels), jnp.float32)
  return jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image)


def _initial(model: MultiExit, channels: int) -> Variables:
  image = jnp.zeros((1, model.image_size, model.image_size, channels))
  return jax.jit(lambda x: model.init(jax.random.key(0), x))(image)


def _from_official(value: np.ndarray, leaf: str, rank: int) -> np.ndarray | None:
  """OIHW to HWIO, (out, in) to (in, out); None where the rank is wrong."""
  if value.ndim != rank:
    return None
  if leaf == 'kernel':
    return value.transpose(2, 3, 1, 0) if rank == 4 else value.T
  return value


def _to_official(value: np.ndarray, leaf: str) -> np.ndarray:
  if leaf != 'kernel':
    return value
  return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T


def _official_shape(leaf: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  return _to_official(np.empty(shape, np.bool_), leaf).shape
