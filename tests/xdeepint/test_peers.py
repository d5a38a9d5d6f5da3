"""What the benchmark compares with computes the same, and stands beside rows that exist; no time is judged."""

import sys

import jax
import numpy as np
import pytest

from configs import xdeepint as config_module
from jaxpapers.engine import UserError
from jaxpapers.xdeepint import benchmarks, peers
from jaxpapers.xdeepint.baselines import baseline
from jaxpapers.xdeepint.embeddings import Fields
from jaxpapers.xdeepint.experiment import experiment
from jaxpapers.xdeepint.model import PinHead
from jaxpapers.xdeepint.optimizers import GroupFtrl, ftrl
from jaxpapers.xdeepint.training import row_sparse, weights_table

FIELDS = Fields(('a', 'b', 'c'), (40, 7, 30))
SIZE = 4


def batch(step, size=16):
  rng = np.random.default_rng(step)
  ids = np.stack([rng.integers(-1, v, size) for v in FIELDS.sizes], axis=1).astype(np.int32)
  return {'ids': ids, 'label': (rng.random(size) < 0.4).astype(np.float32), 'weight': np.ones(size, np.float32)}


@pytest.fixture(scope='module')
def config():
  config = config_module.get_config('test')
  config.seeds = 1
  return config


@pytest.fixture(scope='module')
def names(config):
  return {
    f'{stage.name} {name}'
    for stage in experiment(config).stages
    for name in ('train', *(evaluation.name for evaluation in stage.evaluations))
  }


def test_the_case_times_stages_that_there_are():
  config = config_module.get_config('default')
  (case,) = benchmarks.CASES
  assert set(case.stages) == {'xdeepint', *config.baselines} and case.overrides == ('seeds=1',)
  assert set(peers.DEEPCTR) == set(config.baselines)


def test_the_dense_step_stands_beside_the_row_sparse_one():
  rows, lines = benchmarks.programs(repeats=1, rows=2000, batch_size=8)
  assert [row.name for row in rows] == ['row-sparse step', 'dense step']
  assert rows[1].beside == rows[0].name and not rows[0].beside
  assert all(row.examples == 8 and row.flops > 0 and row.traffic > 0 for row in rows)
  assert len(lines) == 1 and '2,000 rows' in lines[0]


def test_an_absent_library_is_named(monkeypatch, config):
  for name in ('torch', 'deepctr_torch'):
    monkeypatch.setitem(sys.modules, name, None)
  with pytest.raises(UserError, match='needs DeepCTR-Torch'):
    peers.PEERS['deepctr_torch'](config, repeats=1, threads=1)
  with pytest.raises(UserError, match='needs PyTorch'):
    peers.PEERS['torch'](config, repeats=1, threads=1)


def test_several_seeds_and_variants_without_clicks_are_refused():
  with pytest.raises(UserError, match='seeds=1'):
    peers.first_batches(config_module.get_config('test'))
  with pytest.raises(UserError, match='parity'):
    peers.first_batches(config_module.get_config('parity'))


def test_peers_stand_beside_stages(config, names):
  pytest.importorskip('torch', reason='PyTorch is not installed')
  rows = peers.PEERS['torch'](config, repeats=1, threads=1)
  assert [row.beside for row in rows] == ['xdeepint train', 'xdeepint valid'] and {r.beside for r in rows} <= names
  assert [row.examples for row in rows] == [config.data.batch_size, config.data.eval_batch_size]
  pytest.importorskip('deepctr_torch', reason='DeepCTR-Torch is not installed')
  rows = peers.PEERS['deepctr_torch'](config, repeats=1, threads=1)
  assert [row.beside for row in rows] == ['lr train', 'lr valid'] and {r.beside for r in rows} <= names


def test_eager_steps_equal_row_sparse_ones():
  torch = pytest.importorskip('torch', reason='PyTorch is not installed')
  options, dense = GroupFtrl(0.1, 1.0, 0.05, 0.1), {'learning_rate': 0.1, 'l1': 0.01, 'l2': 0.01}
  training = row_sparse(FIELDS, SIZE, PinHead(2, 2), options, ftrl(**dense))
  state = jax.jit(training.init)(jax.random.key(0), batch(0), {})
  eager = peers.EagerXDeepInt(torch, state.params, 2, options, {**dense, 'initial_accumulator': 0.1})
  step = jax.jit(training.step)
  for i in range(3):
    state, _ = step(state, batch(i), jax.random.key(0))
    eager.step(peers.eager_ids(torch, batch(i)['ids'], FIELDS), torch.tensor(batch(i)['label']))
  table, *rest = (w.detach().numpy() for w in eager.weights)
  wanted = np.asarray(weights_table(state, options))
  assert np.any(wanted == 0) and np.any(wanted != 0)
  np.testing.assert_allclose(table[:-1], wanted, atol=2e-6)
  assert not table[-1].any(), 'a missing value stays zero'
  for found, name in zip(rest, ('kernels', 'out_kernel', 'out_bias'), strict=True):
    np.testing.assert_allclose(found, state.params['pin'][name], atol=2e-6, err_msg=name)


@pytest.mark.parametrize('stage', peers.DEEPCTR)
def test_deepctr_models_are_ours(stage):
  pytest.importorskip('deepctr_torch', reason='DeepCTR-Torch is not installed')
  library = peers.deepctr_library()
  torch = library.torch
  theirs = peers.deepctr_model(library, stage, FIELDS, SIZE)
  model = baseline(stage, FIELDS, SIZE)
  params = jax.jit(model.init)(jax.random.key(0), batch(0)['ids'])['params']
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), params)

  def put(parameter, value):
    assert parameter.shape == value.shape
    parameter.data.copy_(torch.tensor(np.asarray(value)))

  def tables(embeddings, table):
    for i, (start, levels) in enumerate(zip(FIELDS.offsets, FIELDS.sizes, strict=True)):
      put(embeddings[f'f{i}'].weight, np.pad(table[start : start + levels], ((1, 0), (0, 0))))

  if '_Linear_0' in params:
    linear = params['_Linear_0']
    tables(theirs.linear_model.embedding_dict, linear['weights']['table'])
    put(theirs.out.bias, linear['bias'])
  if 'FieldEmbedding_0' in params:
    tables(theirs.embedding_dict, params['FieldEmbedding_0']['table'])
  if 'Mlp_0' in params:
    for layer, ours in zip(theirs.dnn.linears, params['Mlp_0'].values(), strict=True):
      put(layer.weight, ours['kernel'].T), put(layer.bias, ours['bias'])
    *cross, out = (params[name] for name in sorted(n for n in params if n.startswith('Dense_')))
    put(theirs.dnn_linear.weight, out['kernel'].T), put(theirs.out.bias, out['bias'])
    for i, ours in enumerate(cross):
      put(theirs.crossnet.kernels[i], ours['kernel'].T), put(theirs.crossnet.bias[i], ours['bias'][:, None])
  ids = batch(1)['ids']
  with torch.no_grad():
    found = theirs(torch.tensor(ids + 1, dtype=torch.float32)).numpy()[:, 0]
  wanted = jax.nn.sigmoid(model.apply({'params': params}, ids))
  assert np.ptp(np.asarray(wanted)) > 0.1
  np.testing.assert_allclose(found, wanted, atol=2e-6)
