"""Variables under the authors' TensorFlow names, both ways. There are no released weights: this reads your own.

Official embeddings lie in the order of the sorted strings `<field>_embedding`, in which C10 comes before C1; numeric
fields are called `<field>_bin`. Here fields keep their declared order, so kernels and output weights are permuted.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from jaxpapers.xdeepint.embeddings import Fields
from jaxpapers.xdeepint.optimizers import FtrlState, GroupFtrlState

_TABLE = 'Embedding/input_layer/{}_embedding/embedding_weights'
_SLOT = re.compile(r'/(GFTRL|GFTRL_1|Ftrl|Ftrl_1)$')


def table_name(field: str) -> str:
  """Official name of a field's table; the field is called as in the authors' graph, e.g. 'C1' or 'I3_bin'."""
  return _TABLE.format(field)


def kernel_names(layers: int) -> list[str]:
  """Official names of the L kernels, in order."""
  stems = [''] + [f'_{i}' for i in range(1, layers)]
  return [f'PIN/polynomial__block/vector_dense__layer{s}/dense{s}/kernel' for s in stems[:layers]]


def output_names(layers: int) -> tuple[str, str]:
  """Official names of the output kernel and bias."""
  stem = f'_{layers}' if layers else ''
  return f'PIN/vector_dense__layer{stem}/dense{stem}/kernel', f'PIN/vector_dense__layer{stem}/dense{stem}/bias'


def official_order(names: Sequence[str]) -> list[int]:
  """Indices into the declared `names` in the order in which the authors' graph stacks them."""
  return sorted(range(len(names)), key=lambda i: f'{names[i]}_embedding')


def _permuted(kernels: np.ndarray, order: Sequence[int]) -> np.ndarray:
  """Rows and columns [.., h * F, h * F] taken so that new field i is old field order[i]."""
  layers, rows, _ = kernels.shape
  index = (np.arange(0, rows, len(order))[:, None] + np.asarray(order)).reshape(-1)
  return kernels[:, index][:, :, index]


def import_official(
  state: Mapping[str, np.ndarray], fields: Fields, size: int, layers: int, sub_spaces: int, out_rows: int
) -> dict[str, dict]:
  """Official variables -> {'params': {'embedding': {'table'}, 'pin': {...}}} for `XDeepInt`.

  Args:
    state: arrays under the official names; optimizer slots and global_step may be among them (see `import_slots`).
    fields: in declared order, called as in the authors' graph (numeric fields 'I3_bin').
    size: K.
    layers: L.
    sub_spaces: h.
    out_rows: rows of the output weights.

  Raises:
    ValueError: naming every variable that is missing, unexpected or of another shape.
  """
  rows = sub_spaces * len(fields)
  out_kernel, out_bias = output_names(layers)
  expected = {table_name(n): (v, size) for n, v in zip(fields.names, fields.sizes, strict=True)}
  expected |= dict.fromkeys(kernel_names(layers), (rows, rows))
  expected |= {out_kernel: (out_rows, 1), out_bias: (1,)}
  given = {k: np.asarray(v) for k, v in state.items() if k != 'global_step' and not _SLOT.search(k)}
  problems = [f'{k} is missing' for k in expected if k not in given]
  problems += [f'{k} is unexpected' for k in given if k not in expected]
  problems += [
    f'{k} has shape {given[k].shape}, not {shape}'
    for k, shape in expected.items()
    if k in given and given[k].shape != shape
  ]
  if problems:
    raise ValueError(f'These are not the variables of this model: {"; ".join(problems)}.')
  return {'params': _assemble(given, fields, size, layers, rows)}


def _assemble(given, fields: Fields, size: int, layers: int, rows: int) -> dict:
  """The parameter tree from checked arrays."""
  table = np.zeros((fields.padded_rows, size), np.float32)
  for name, offset, levels in zip(fields.names, fields.offsets, fields.sizes, strict=True):
    table[offset : offset + levels] = given[table_name(name)]
  # declared field i is official field inverse[i]
  inverse = np.argsort(official_order(fields.names))
  kernels = np.zeros((layers, rows, rows), np.float32)
  for i, name in enumerate(kernel_names(layers)):
    kernels[i] = given[name]
  out_kernel, out_bias = (np.asarray(given[name], np.float32) for name in output_names(layers))
  return {
    'embedding': {'table': table},
    'pin': {
      'kernels': _permuted(kernels, inverse),
      'out_kernel': out_kernel.reshape(-1, len(fields))[:, inverse].reshape(-1, 1),
      'out_bias': out_bias,
    },
  }


def export_official(params: Mapping[str, Mapping], fields: Fields) -> dict[str, np.ndarray]:
  """Inverse of `import_official`: {'embedding', 'pin'} (or gradients of that shape) under the official names."""
  table = np.asarray(params['embedding']['table'])
  kernels = np.asarray(params['pin']['kernels'])
  order = official_order(fields.names)
  out = {
    table_name(name): table[offset : offset + levels]
    for name, offset, levels in zip(fields.names, fields.offsets, fields.sizes, strict=True)
  }
  out |= dict(zip(kernel_names(len(kernels)), _permuted(kernels, order), strict=True))
  out_kernel, out_bias = output_names(len(kernels))
  out[out_kernel] = np.asarray(params['pin']['out_kernel']).reshape(-1, len(fields))[:, order].reshape(-1, 1)
  out[out_bias] = np.asarray(params['pin']['out_bias'])
  return out


def import_slots(
  state: Mapping[str, np.ndarray], fields: Fields, size: int, layers: int, sub_spaces: int, out_rows: int
) -> dict[str, GroupFtrlState | FtrlState]:
  """Official optimizer slots -> {'embedding': GroupFtrlState, 'pin': FtrlState}, trees like the parameters.

  Arguments and errors as `import_official`.
  """

  def trees(table_slot: str, dense_slot: str) -> dict:
    ends = ('embedding_weights/' + table_slot, 'kernel/' + dense_slot, 'bias/' + dense_slot)
    part = {_SLOT.sub('', k): v for k, v in state.items() if k.endswith(ends)}
    return import_official(part, fields, size, layers, sub_spaces, out_rows)['params']

  n, z = trees('GFTRL', 'Ftrl'), trees('GFTRL_1', 'Ftrl_1')
  return {'embedding': GroupFtrlState(n['embedding'], z['embedding']), 'pin': FtrlState(n['pin'], z['pin'])}


def export_slots(slots: Mapping[str, GroupFtrlState | FtrlState], fields: Fields) -> dict[str, np.ndarray]:
  """Inverse of `import_slots`."""
  out = {}
  for which, table_slot, dense_slot in (('n', 'GFTRL', 'Ftrl'), ('z', 'GFTRL_1', 'Ftrl_1')):
    tree = {part: getattr(slots[part], which) for part in ('embedding', 'pin')}
    for name, value in export_official(tree, fields).items():
      out[f'{name}/{table_slot if name.endswith("embedding_weights") else dense_slot}'] = value
  return out
