"""Parameters under the authors' PyTorch names, both ways, and the score rows that they blank."""

from collections.abc import Mapping
from typing import Any

import numpy as np

CONVOLUTION_SHAPES = {'conv1': (32, 4, 8, 8), 'conv2': (64, 32, 4, 4), 'conv3': (64, 64, 3, 3)}
_SIDE, _CHANNELS = 7, 64  # of the last map, which is flattened channels first
FEATURES = _CHANNELS * _SIDE * _SIDE

# (rows blanked at the top, at the bottom) of an 84 x 84 frame: the score would tell the game's state.
SCORE_ROWS = {
  'breakout': (10, 0),
  'spaceinvaders': (10, 0),
  'pong': (10, 0),
  'beamrider': (16, 11),
  'enduro': (0, 14),
  'hero': (0, 30),
  'qbert': (12, 0),
  'seaquest': (12, 16),
  'mspacman': (0, 15),
  'videopinball': (15, 0),
  'montezumarevenge': (10, 0),
}


def score_rows(game: str, height: int = 84) -> np.ndarray:
  """[height] bool, True for rows that are set to zero in demonstrations and evaluation.

  Raises:
    ValueError: for a game without known rows.
  """
  if game not in SCORE_ROWS:
    raise ValueError(f'The score rows of {game!r} are not known; known: {", ".join(sorted(SCORE_ROWS))}.')
  top, bottom = SCORE_ROWS[game]
  rows = np.arange(height)
  return (rows < top) | (rows >= height - bottom)


def mlp_names(kind: str) -> dict[str, str]:
  """{our layer: official layer} of a perceptron: kind 'gail' (fc1 ... output) or 'bco' (0, 2, 4)."""
  if kind == 'bco':
    return {'fc1': '0', 'fc2': '2', 'output': '4'}
  return {name: name for name in ('fc1', 'fc2', 'fc3', 'output')}


def _channels_last(weight: np.ndarray) -> np.ndarray:
  """[out, copies * 3136 + rest] -> the same with every flattened map read rows, columns, channels."""
  parts, start = [], 0
  while weight.shape[1] - start >= FEATURES:
    part = weight[:, start : start + FEATURES].reshape(-1, _CHANNELS, _SIDE, _SIDE)
    parts.append(part.transpose(0, 2, 3, 1).reshape(len(weight), FEATURES))
    start += FEATURES
  return np.concatenate([*parts, weight[:, start:]], axis=1)


def _channels_first(weight: np.ndarray) -> np.ndarray:
  """Inverse of `_channels_last`."""
  parts, start = [], 0
  while weight.shape[1] - start >= FEATURES:
    part = weight[:, start : start + FEATURES].reshape(-1, _SIDE, _SIDE, _CHANNELS)
    parts.append(part.transpose(0, 3, 1, 2).reshape(len(weight), FEATURES))
    start += FEATURES
  return np.concatenate([*parts, weight[:, start:]], axis=1)


def import_convolutions(state: Mapping[str, np.ndarray], prefix: str = '') -> dict[str, Any]:
  """Parameters of `NatureFeatures` from conv{1,2,3}.{weight,bias} under `prefix`."""
  return {
    name: {'kernel': state[f'{prefix}{name}.weight'].transpose(2, 3, 1, 0), 'bias': state[f'{prefix}{name}.bias']}
    for name in CONVOLUTION_SHAPES
  }


def import_mlp(state: Mapping[str, np.ndarray], prefix: str, kind: str) -> dict[str, Any]:
  """Parameters of an `Mlp` on flattened features from `prefix`<layer>.{weight,bias}."""
  return {
    name: {
      'kernel': _channels_last(state[f'{prefix}{official}.weight']).T
      if name == 'fc1'
      else state[f'{prefix}{official}.weight'].T,
      'bias': state[f'{prefix}{official}.bias'],
    }
    for name, official in mlp_names(kind).items()
  }


def export_mlp(params: Mapping[str, Any], prefix: str, kind: str) -> dict[str, np.ndarray]:
  """Inverse of `import_mlp`, also for gradients."""
  out = {}
  for name, official in mlp_names(kind).items():
    weight = np.asarray(params[name]['kernel']).T
    out[f'{prefix}{official}.weight'] = _channels_first(weight) if name == 'fc1' else weight
    out[f'{prefix}{official}.bias'] = np.asarray(params[name]['bias'])
  return out


def import_official(state: Mapping[str, np.ndarray], num_actions: int) -> dict[str, Any]:
  """The authors' BC network -> {'params': ...} of `NatureCnn`.

  Args:
    state: conv{1,2,3}, fc1 and output, .weight and .bias.
    num_actions: A.

  Raises:
    ValueError: naming every entry that is missing, unexpected or of another shape.
  """
  shapes = {f'{name}.weight': shape for name, shape in CONVOLUTION_SHAPES.items()}
  shapes |= {'fc1.weight': (512, FEATURES), 'output.weight': (num_actions, 512)}
  shapes |= {name.replace('weight', 'bias'): shape[:1] for name, shape in shapes.items()}
  given = {name: np.asarray(value) for name, value in state.items()}
  _refuse(given, shapes)
  params = {
    'cnn': import_convolutions(given),
    'fc1': {'kernel': _channels_last(given['fc1.weight']).T, 'bias': given['fc1.bias']},
    'output': {'kernel': given['output.weight'].T, 'bias': given['output.bias']},
  }
  return {'params': params}


def import_layers(
  state: Mapping[str, np.ndarray], shapes: Mapping[str, Mapping[str, tuple[int, ...]]]
) -> dict[str, Any]:
  """Dense layers as PyTorch names them, LAYER.weight [out, in] and LAYER.bias [out] -> {'params': ...}.

  Args:
    state: the arrays.
    shapes: {layer: {'kernel': (in, out), 'bias': (out,)}} of the network; a layer may have no bias.

  Raises:
    ValueError: naming every entry that is missing, unexpected or of another shape.
  """
  torch = {'kernel': 'weight', 'bias': 'bias'}
  wanted = {f'{layer}.{torch[part]}': shape[::-1] for layer, parts in shapes.items() for part, shape in parts.items()}
  given = {name: np.asarray(value) for name, value in state.items()}
  _refuse(given, wanted)
  return {
    'params': {layer: {part: given[f'{layer}.{torch[part]}'].T for part in parts} for layer, parts in shapes.items()}
  }


def _refuse(given: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> None:
  problems = [f'{name} is missing' for name in shapes if name not in given]
  problems += [f'{name} is unexpected' for name in given if name not in shapes]
  problems += [
    f'{name} has shape {given[name].shape}, not {shape}'
    for name, shape in shapes.items()
    if name in given and given[name].shape != tuple(shape)
  ]
  if problems:
    raise ValueError(f'These are not the variables of this network: {"; ".join(problems)}.')


def export_official(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Inverse of `import_official`, also for gradients: params of `NatureCnn` under the official names."""
  out = {}
  for name in CONVOLUTION_SHAPES:
    out[f'{name}.weight'] = np.asarray(params['cnn'][name]['kernel']).transpose(3, 2, 0, 1)
    out[f'{name}.bias'] = np.asarray(params['cnn'][name]['bias'])
  out['fc1.weight'] = _channels_first(np.asarray(params['fc1']['kernel']).T)
  out['fc1.bias'] = np.asarray(params['fc1']['bias'])
  out['output.weight'] = np.asarray(params['output']['kernel']).T
  out['output.bias'] = np.asarray(params['output']['bias'])
  return out
