"""Official names there and back, strictness, and weights under those names in a run."""

import re

import jax
import numpy as np
import pytest

from configs import xdeepint as config_module
from jaxpapers.engine import UserError
from jaxpapers.xdeepint import experiment, official
from jaxpapers.xdeepint.embeddings import Fields
from jaxpapers.xdeepint.optimizers import FtrlState, GroupFtrlState
from jaxpapers.xdeepint.pin import output_rows

FIELDS = Fields(('I1_bin', 'C1', 'C2', 'C10', 'C9'), (4, 3, 5, 2, 1))


def official_state(layers=2, h=2, size=4, output='product', seed=0):
  rng = np.random.default_rng(seed)
  rows = h * len(FIELDS)
  shapes = {official.table_name(n): (v, size) for n, v in zip(FIELDS.names, FIELDS.sizes, strict=True)}
  shapes |= dict.fromkeys(official.kernel_names(layers), (rows, rows))
  kernel, bias = official.output_names(layers)
  shapes |= {kernel: (output_rows(len(FIELDS), layers, output), 1), bias: (1,)}
  return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_names_are_those_of_the_authors_graph():
  assert official.table_name('I3_bin') == 'Embedding/input_layer/I3_bin_embedding/embedding_weights'
  assert official.kernel_names(0) == []
  assert official.kernel_names(2)[1] == 'PIN/polynomial__block/vector_dense__layer_1/dense_1/kernel'
  assert official.output_names(0)[0] == 'PIN/vector_dense__layer/dense/kernel'
  assert official.output_names(3)[1] == 'PIN/vector_dense__layer_3/dense_3/bias'
  assert [FIELDS.names[i] for i in official.official_order(FIELDS.names)] == ['C10', 'C1', 'C2', 'C9', 'I1_bin']


@pytest.mark.parametrize(('layers', 'output'), [(0, 'product'), (2, 'product'), (3, 'concat')])
def test_round_trip(layers, output):
  state = official_state(layers, output=output)
  variables = official.import_official(state, FIELDS, 4, layers, 2, output_rows(5, layers, output))
  back = official.export_official(variables['params'], FIELDS)
  assert set(back) == set(state)
  jax.tree.map(np.testing.assert_array_equal, back, state)
  if layers:
    # C10 comes first in the official order, and fourth in ours.
    kernels = variables['params']['pin']['kernels']
    assert kernels[0][3, 3] == state[official.kernel_names(layers)[0]][0, 0]
    assert kernels[0][5 + 3, 0] == state[official.kernel_names(layers)[0]][5, 4]


def test_slots_round_trip():
  state = official_state()
  slots = {}
  for name, value in state.items():
    kinds = ('GFTRL', 'GFTRL_1') if name.endswith('embedding_weights') else ('Ftrl', 'Ftrl_1')
    slots |= {f'{name}/{kind}': value + i for i, kind in enumerate(kinds)}
  both = {**state, **slots, 'global_step': np.asarray(7)}
  official.import_official(both, FIELDS, 4, 2, 2, 5)
  got = official.import_slots(both, FIELDS, 4, 2, 2, 5)
  assert isinstance(got['embedding'], GroupFtrlState) and isinstance(got['pin'], FtrlState)
  jax.tree.map(np.testing.assert_array_equal, official.export_slots(got, FIELDS), slots)


def test_every_wrong_variable_is_named():
  state = official_state()
  missing = official.kernel_names(2)[1]
  state.pop(missing)
  state['PIN/extra'] = np.zeros(3)
  state[official.table_name('C2')] = np.zeros((6, 4))
  with pytest.raises(ValueError) as caught:
    official.import_official(state, FIELDS, 4, 2, 2, 5)
  for words in (f'{missing} is missing', 'PIN/extra is unexpected', r'C2_embedding/embedding_weights has shape (6, 4)'):
    assert re.search(re.escape(words), str(caught.value))


def test_import_for_a_config():
  config = config_module.get_config('test')
  config.seeds = 1
  fields = experiment.data.load('adult').fields
  rng = np.random.default_rng(0)
  names = [n + '_bin' if n in ('fnlwgt', 'capital_gain') else n for n in fields.names]
  state = {official.table_name(n): rng.normal(size=(v, 4)) for n, v in zip(names, fields.sizes, strict=True)}
  state |= {name: rng.normal(size=(28, 28)) for name in official.kernel_names(2)}
  kernel, bias = official.output_names(2)
  state |= {kernel: rng.normal(size=(14, 1)), bias: np.zeros(1)}
  variables = experiment.import_variables(config, state)
  assert variables['params']['embedding']['table'].shape == (fields.padded_rows, 4)
  state.pop(bias)
  with pytest.raises(UserError, match='bias is missing'):
    experiment.import_variables(config, state)
  config.seeds = 2
  with pytest.raises(UserError, match='seeds=1'):
    experiment.import_variables(config, state)
