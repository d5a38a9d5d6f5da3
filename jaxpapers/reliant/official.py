"""Parameters under the names of the authors' PyTorch modules, both ways.

No official program saves weights; these are the names that adding `state_dict()` to it gives. Linear weights are
[out, in] there, kernels [in, out] here; GCN weights are [in, out] on both sides.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

Params = dict[str, Any]


class _Form(NamedTuple):
  """How an array differs there: shape of ours -> shape of theirs, and the two conversions."""

  shape: Callable[[tuple[int, ...]], tuple[int, ...]]
  ours: Callable[[np.ndarray], np.ndarray]
  theirs: Callable[[np.ndarray], np.ndarray]


_SAME = _Form(lambda s: s, lambda x: x, lambda x: x)
_TRANSPOSED = _Form(lambda s: s[::-1], np.transpose, np.transpose)
_LEADING = _Form(lambda s: (1, *s), lambda x: x[0], lambda x: x[None])
_COLUMN = _Form(lambda s: (*s, 1), lambda x: x[:, 0], lambda x: x[:, None])

_LAYERS = {
  'gcn': ('layers.{}.', {'kernel': ('weight', _SAME), 'bias': ('bias', _SAME)}),
  'sage': (
    'layers.{}.',
    {'kernel': ('fc_neigh.weight', _TRANSPOSED), 'own': ('fc_self.weight', _TRANSPOSED), 'bias': ('bias', _SAME)},
  ),
  'gat': (
    'gat_layers.{}.',
    {'kernel': ('fc.weight', _TRANSPOSED), 'attn_l': ('attn_l', _LEADING), 'attn_r': ('attn_r', _LEADING)},
  ),
  'appnp': ('layers.{}.', {'kernel': ('weight', _TRANSPOSED), 'bias': ('bias', _SAME)}),
  'mlp': ('linears.{}.', {'kernel': ('weight', _TRANSPOSED), 'bias': ('bias', _SAME)}),
  'logistic_regression': ('linear.', {'kernel': ('weight', _TRANSPOSED), 'bias': ('bias', _SAME)}),
  'sgc': ('fc.', {'kernel': ('weight', _TRANSPOSED)}),
  'sgc_student': ('layers.{}.fc.', {'kernel': ('weight', _TRANSPOSED), 'bias': ('bias', _SAME)}),
}
MODELS = (*_LAYERS, 'plp', 'discriminator_logits', 'discriminator_edges', 'discriminator_graph')

# The authors' PLP module has a parameter that nothing uses: accepted, dropped, and never written.
_IGNORED = {'plp': ('alpha',)}


def _layer_names(kind: str, params: Params, prefix: str = '') -> dict[str, tuple[tuple[str, ...], _Form]]:
  stem, parts = _LAYERS[kind]
  if kind == 'mlp' and len(params) == 1:
    stem = 'linear.'
  return {
    prefix + stem.format(index) + parts[name][0]: ((f'layer_{index}', name), parts[name][1])
    for index in range(len(params))
    for name in params[f'layer_{index}']
  }


def names(kind: str, params: Params) -> dict[str, tuple[tuple[str, ...], _Form]]:
  """Official name -> (path in our tree, form), for parameters of the model `kind` (arrays or shapes).

  Raises:
    ValueError: for an unknown kind.
  """
  if kind in _LAYERS:
    return _layer_names(kind, params)
  if kind == 'plp':
    found = {'plp_layer.lr_alpha': (('lr_alpha',), _COLUMN)}
    if 'attn_l' in params:
      found['plp_layer.attn_l'] = (('attn_l',), _LEADING)
    else:
      found['plp_layer.fc_emb'] = (('fc_emb',), _COLUMN)
    inner = _layer_names('mlp', params.get('mlp', {}), 'plp_layer.mlp.')
    return found | {name: (('mlp', *path), form) for name, (path, form) in inner.items()}
  if kind == 'discriminator_logits':
    return {
      'lin.weight': (('lin', 'kernel'), _TRANSPOSED),
      'lin.bias': (('lin', 'bias'), _SAME),
      'lin2.weight': (('lin2', 'kernel'), _TRANSPOSED),
    }
  if kind in ('discriminator_edges', 'discriminator_graph'):
    return {'d': (('d',), _SAME), 'scale': (('scale',), _SAME)}
  raise ValueError(f'Model {kind!r} has no official names; known: {", ".join(MODELS)}.')


def import_official(kind: str, state: Mapping[str, np.ndarray], template: Params) -> Params:
  """Official parameters as the tree of `template`.

  Args:
    kind: one of `MODELS`.
    state: arrays under the official names.
    template: parameters (arrays or shapes) of the model that takes them.

  Returns:
    Parameters, float32.

  Raises:
    ValueError: naming every entry that is missing, unexpected or of another shape.
  """
  wanted = names(kind, template)
  ignored = _IGNORED.get(kind, ())
  given = {name: np.asarray(value) for name, value in state.items() if name not in ignored}
  problems = [f'{name} is missing' for name in wanted if name not in given]
  problems += [f'{name} is unexpected' for name in given if name not in wanted]
  for name, (path, form) in wanted.items():
    shape = form.shape(tuple(_at(template, path).shape))
    if name in given and given[name].shape != shape:
      problems.append(f'{name} has shape {given[name].shape}, not {shape}')
  if problems:
    raise ValueError(f'These are not the parameters of this {kind}: {"; ".join(problems)}.')
  result: Params = {}
  for name, (path, form) in wanted.items():
    node = result
    for key in path[:-1]:
      node = node.setdefault(key, {})
    node[path[-1]] = np.ascontiguousarray(form.ours(given[name]), np.float32)
  return result


def export_official(kind: str, params: Params) -> dict[str, np.ndarray]:
  """Inverse of `import_official`; gradients of the same tree may take the parameters' place."""
  return {name: form.theirs(np.asarray(_at(params, path))) for name, (path, form) in names(kind, params).items()}


def template_of(kind: str, state: Mapping[str, np.ndarray]) -> Params:
  """Shapes of the parameters that `state` holds, where no model is at hand to give them.

  Raises:
    ValueError: if `state` is not that of any model of this kind.
  """
  if kind in _LAYERS:
    return _layers_of(kind, state, '')
  if kind == 'plp':
    template = {'lr_alpha': _shape(_COLUMN, state, 'plp_layer.lr_alpha', 2)}
    if 'plp_layer.attn_l' in state:
      template['attn_l'] = _shape(_LEADING, state, 'plp_layer.attn_l', 2)
    else:
      template['fc_emb'] = _shape(_COLUMN, state, 'plp_layer.fc_emb', 2)
    inner = _layers_of('mlp', state, 'plp_layer.mlp.')
    return template | ({'mlp': inner} if inner else {})
  if kind == 'discriminator_logits':
    lin = {'kernel': _shape(_TRANSPOSED, state, 'lin.weight', 2), 'bias': _shape(_SAME, state, 'lin.bias', 1)}
    return {'lin': lin, 'lin2': {'kernel': _shape(_TRANSPOSED, state, 'lin2.weight', 2)}}
  return {path[-1]: _shape(form, state, name, 1) for name, (path, form) in names(kind, {}).items()}


def _layers_of(kind: str, state: Mapping[str, np.ndarray], prefix: str) -> Params:
  stem, parts = _LAYERS[kind]
  if kind == 'mlp' and f'{prefix}linear.weight' in state:
    stem = 'linear.'
  template: Params = {}
  while True:
    index = len(template)
    there = prefix + stem.format(index)
    layer = {
      name: _shape(form, state, there + official, np.ndim(state[there + official]))
      for name, (official, form) in parts.items()
      if there + official in state
    }
    if not layer:
      return template
    template[f'layer_{index}'] = layer
    if '{}' not in stem:
      return template


def _shape(form: _Form, state: Mapping[str, np.ndarray], name: str, rank: int) -> jax.ShapeDtypeStruct:
  if name not in state:
    raise ValueError(f'{name} is missing.')
  value = np.asarray(state[name])
  if value.ndim != rank:
    raise ValueError(f'{name} has shape {value.shape}, but {rank} axes were expected.')
  return jax.ShapeDtypeStruct(form.ours(value).shape, np.float32)


def _at(tree: Params, path: tuple[str, ...]) -> Any:
  for key in path:
    tree = tree[key]
  return tree
