"""The authors' names and layouts, both ways: state dicts, the flat vector of DD, image files of a run."""

from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from jaxpapers.doorping.model import AlexNet, ConvNet, Network

_LEAVES = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}


def module_names(model: Network) -> dict[str, str]:
  """{our layer: official layer} in the order of definition."""
  if isinstance(model, AlexNet):
    linear = {'linear0': 'classifier.0', 'hidden': 'classifier.2', 'logits': 'classifier.4'}
    return {'conv0': 'features.0', 'conv1': 'features.4', **linear}
  names, index = {}, 0
  for i in range(model.depth):
    names[f'conv{i}'] = f'features.{index}'
    index += 1
    if model.norm != 'none':
      names[f'norm{i}'] = f'features.{index}'
      index += 1
    index += 1 + (model.pooling != 'none')
  if model.head == 'one':
    return {**names, 'logits': 'classifier'}
  return {**names, 'hidden': 'classifier.0', 'logits': 'classifier.2'}


def _template(model: ConvNet | AlexNet, image_shape: tuple[int, int, int]) -> dict[tuple[str, ...], Any]:
  """Leaves of the model's variables in the official order."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *image_shape)))
  order = list(module_names(model))
  leaves = flax.traverse_util.flatten_dict(shapes)
  ranks = {name: i for i, name in enumerate(_LEAVES)}
  return dict(sorted(leaves.items(), key=lambda item: (order.index(item[0][1]), ranks[item[0][-1]])))


def _to_official(value: np.ndarray) -> np.ndarray:
  """HWIO -> OIHW, [in, out] -> [out, in], [H, W, C] -> [C, H, W]."""
  return np.transpose(value, {4: (3, 2, 0, 1), 3: (2, 0, 1), 2: (1, 0), 1: (0,)}[value.ndim])


def _from_official(value: np.ndarray) -> np.ndarray:
  return np.transpose(value, {4: (2, 3, 1, 0), 3: (1, 2, 0), 2: (1, 0), 1: (0,)}[value.ndim])


def _official_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
  return _to_official(np.empty(shape, np.bool_)).shape


def import_official(state: Mapping[str, Any], model: Network, image_shape: tuple[int, int, int]) -> dict[str, Any]:
  """Variables of `model` from a state dict of either program.

  Args:
    state: official name -> array; `num_batches_tracked` may be among them.
    model: of the same architecture.
    image_shape: (height, width, channels) that the weights were made for.

  Returns:
    {'params': ...[, 'batch_stats': ...]}, numpy arrays of the given dtypes.

  Raises:
    ValueError: naming every entry that is missing, unexpected or of another shape.
  """
  given = {k: np.asarray(v) for k, v in state.items() if not k.endswith('num_batches_tracked')}
  names = module_names(model)
  template = _template(model, image_shape)
  keys = {path: f'{names[path[1]]}.{_LEAVES[path[-1]]}' for path in template}
  want = {key: _official_shape(template[path].shape) for path, key in keys.items()}
  problems = [f'{key} is missing' for key in want if key not in given]
  problems += [f'{key} is unexpected' for key in given if key not in want]
  problems += [
    f'{key} has shape {given[key].shape}, not {shape}'
    for key, shape in want.items()
    if key in given and given[key].shape != shape
  ]
  if problems:
    raise ValueError(f'These are not the weights of this network: {"; ".join(problems)}.')
  return flax.traverse_util.unflatten_dict({path: _from_official(given[key]) for path, key in keys.items()})


def export_official(variables: Mapping[str, Any], model: Network) -> dict[str, np.ndarray]:
  """Inverse of `import_official`, in the official order; also takes {'params': gradients}."""
  names = module_names(model)
  order, ranks = list(names), {name: i for i, name in enumerate(_LEAVES)}
  leaves = flax.traverse_util.flatten_dict(dict(variables))
  ordered = sorted(leaves.items(), key=lambda item: (order.index(item[0][1]), ranks[item[0][-1]]))
  return {f'{names[path[1]]}.{_LEAVES[path[-1]]}': _to_official(np.asarray(leaf)) for path, leaf in ordered}


def import_flat(flat: np.ndarray, model: Network, image_shape: tuple[int, int, int]) -> dict[str, Any]:
  """Variables from DD's `flat_w`: every tensor in the order of definition, official layouts.

  Raises:
    ValueError: for another length.
  """
  names, flat, state, start = module_names(model), np.asarray(flat).reshape(-1), {}, 0
  template = _template(model, image_shape)
  total = sum(int(np.prod(leaf.shape)) for leaf in template.values())
  if len(flat) != total:
    raise ValueError(f'flat_w holds {len(flat):,} values; this network has {total:,}.')
  for path, leaf in template.items():
    shape = _official_shape(leaf.shape)
    size = int(np.prod(shape))
    state[f'{names[path[1]]}.{_LEAVES[path[-1]]}'] = flat[start : start + size].reshape(shape)
    start += size
  return import_official(state, model, image_shape)


def export_flat(variables: Mapping[str, Any], model: Network) -> np.ndarray:
  """Inverse of `import_flat`."""
  return np.concatenate([value.reshape(-1) for value in export_official(variables, model).values()])


def import_images(images: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray:
  """Distilled images or a trigger from [batch, channels, height, width] to [batch, height, width, channels].

  Raises:
    ValueError: naming the shape, if it is another; for NaN and infinities.
  """
  images = np.asarray(images)
  images = images[None] if images.ndim == 3 else images
  height, width, channels = image_shape
  if images.ndim != 4 or images.shape[1:] != (channels, height, width):
    raise ValueError(f'Images of shape {images.shape} are not [batch, {channels}, {height}, {width}].')
  wrong = ~np.isfinite(images).all((1, 2, 3))
  if wrong.any():
    raise ValueError(f'There are NaN or infinite values in {wrong.sum()} of {len(images)} images.')
  return images.transpose(0, 2, 3, 1)
