"""The training step: row-sparse against dense, memory options, replicas, resuming, sharding, and the whole program."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import xdeepint as config_module
from jaxpapers.engine import UserError
from jaxpapers.xdeepint import baselines, experiment
from jaxpapers.xdeepint.embeddings import Fields, check_ids, global_ids, take_rows
from jaxpapers.xdeepint.evaluation import xdeepint_logits
from jaxpapers.xdeepint.model import PinHead, XDeepInt
from jaxpapers.xdeepint.optimizers import GroupFtrl, ftrl, xdeepint_optimizer
from jaxpapers.xdeepint.training import replicas, row_sparse, summed_loss, weights_table

ROOT = Path(__file__).resolve().parents[2]
FIELDS = Fields(('a', 'b', 'c'), (40, 7, 30))
HEAD = PinHead(2, 2)
OPTIONS = GroupFtrl(0.1, 1.0, 0.05, 0.1)


def batch(step, size=16):
  rng = np.random.default_rng(step)
  ids = np.stack([rng.integers(-1, v, size) for v in FIELDS.sizes], axis=1).astype(np.int32)
  label = (rng.random(size) < 0.4).astype(np.float32)
  return {'ids': ids, 'label': label, 'weight': (np.arange(size) < size - 2).astype(np.float32)}


def train(training, steps, state=None, start=0):
  if state is None:
    state = jax.jit(training.init)(jax.random.key(0), batch(0), {})
  step = jax.jit(training.step)
  for i in range(start, steps):
    state, metrics = step(state, batch(i), jax.random.key(i))
  return state, metrics


def test_row_sparse_training_equals_the_dense_optimizers():
  training = row_sparse(FIELDS, 4, HEAD, OPTIONS, ftrl(0.1, 0.01, 0.01))
  state = jax.jit(training.init)(jax.random.key(0), batch(0), {})
  model, dense = XDeepInt(FIELDS, 4, HEAD), xdeepint_optimizer(OPTIONS, ftrl(0.1, 0.01, 0.01))
  # The dense form does the first projection itself: it starts from a table in which no row is zero.
  params = {
    'embedding': model.init(jax.random.key(3), batch(0)['ids'])['params']['embedding'],
    'pin': state.params['pin'],
  }
  table = np.asarray(state.params['embedding']['table'])
  filled = np.where(np.any(table, axis=1, keepdims=True), table, np.asarray(params['embedding']['table']))
  params['embedding'] = {'table': jnp.asarray(filled)}
  slots = dense.init(params)

  @jax.jit
  def dense_step(params, slots, batch):
    grads = jax.grad(lambda p: summed_loss(model.apply({'params': p}, batch['ids']), batch))(params)
    updates, slots = dense.update(grads, slots, params)
    return optax.apply_updates(params, updates), slots

  step = jax.jit(training.step)
  for i in range(12):
    state, _ = step(state, batch(i), jax.random.key(i))
    params, slots = dense_step(params, slots, batch(i))
    got = np.asarray(state.params['embedding']['table'])
    np.testing.assert_allclose(got, params['embedding']['table'], rtol=2e-5, atol=2e-6)
    np.testing.assert_array_equal(np.any(got, axis=1), np.any(params['embedding']['table'], axis=1))
    np.testing.assert_allclose(state.params['pin']['kernels'], params['pin']['kernels'], rtol=2e-4, atol=2e-6)
  assert 0 < np.any(got, axis=1).sum() < FIELDS.rows


def test_tables_need_not_be_stored():
  stored, a = train(row_sparse(FIELDS, 4, HEAD, OPTIONS, ftrl()), 8)
  training = row_sparse(FIELDS, 4, HEAD, OPTIONS, ftrl(), store_weights=False)
  lean, b = train(training, 8)
  assert lean.params['embedding'] == {}
  np.testing.assert_allclose(weights_table(lean, OPTIONS), stored.params['embedding']['table'], rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(a['loss'], b['loss'], rtol=1e-5)
  logits = xdeepint_logits(FIELDS, HEAD, OPTIONS, None)
  np.testing.assert_allclose(logits(lean, batch(9)['ids']), logits(stored, batch(9)['ids']), rtol=1e-4, atol=1e-6)
  with pytest.raises(ValueError, match='store_weights'):
    row_sparse(FIELDS, 4, HEAD, OPTIONS, ftrl(), store_weights=False, start=lambda v: v)


def test_padding_and_missing_values_count_for_nothing():
  training = row_sparse(FIELDS, 4, HEAD, OPTIONS, ftrl())
  one = batch(0)
  other = {**one, 'label': np.where(one['weight'] > 0, one['label'], 1 - one['label'])}
  other['ids'] = np.where(one['weight'][:, None] > 0, one['ids'], 5)
  short = {key: value[:-2] for key, value in one.items()}

  @jax.jit
  def first_step(batch):
    return training.step(training.init(jax.random.key(0), batch, {}), batch, jax.random.key(0))[0]

  states = [first_step(b) for b in (one, other, short)]
  for state in states[1:]:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), state.params, states[0].params)
  zero = take_rows(states[0].params['embedding']['table'], global_ids(jnp.full((1, 3), -1), FIELDS))
  assert not zero.any()


def test_too_few_row_slots_stop_the_run():
  enough, _ = train(row_sparse(FIELDS, 4, HEAD, OPTIONS, ftrl(), row_slots=45), 3)
  full, _ = train(row_sparse(FIELDS, 4, HEAD, OPTIONS, ftrl()), 3)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), enough.params, full.params)
  _, metrics = train(row_sparse(FIELDS, 4, HEAD, OPTIONS, ftrl(), row_slots=9), 1)
  assert np.isnan(metrics['loss'])


def test_stopping_and_going_on_changes_no_bit():
  training = row_sparse(FIELDS, 4, HEAD, OPTIONS, ftrl())
  whole, _ = train(training, 8)
  half, _ = train(training, 4)
  again, _ = train(row_sparse(FIELDS, 4, HEAD, OPTIONS, ftrl()), 8, jax.tree.map(np.asarray, half), 4)
  jax.tree.map(np.testing.assert_array_equal, again, whole)


def test_replicas_are_independent_trainings():
  def make(lambda1):
    return row_sparse(FIELDS, 4, HEAD, OPTIONS._replace(lambda1=lambda1), ftrl())

  state, _ = train(replicas(make, np.asarray([0.01, 0.3], np.float32), None), 5)
  for index, value in enumerate((0.01, 0.3)):
    single, _ = train(make(value), 5)
    got = jax.tree.map(lambda x, i=index: x[i], state.params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), got, single.params)


def test_imported_weights_are_the_starting_point():
  table = np.zeros((FIELDS.padded_rows, 4), np.float32)
  table[: FIELDS.rows] = np.random.default_rng(0).normal(size=(FIELDS.rows, 4))

  def start(variables):
    return {'params': {**variables['params'], 'embedding': {'table': jnp.asarray(table)}}}

  training = row_sparse(FIELDS, 4, HEAD, OPTIONS, ftrl(), start=start)
  state = jax.jit(training.init)(jax.random.key(0), batch(0), {})
  np.testing.assert_allclose(weights_table(state.replace(params={'embedding': {}}), OPTIONS), table, rtol=1e-5)
  state, _ = jax.jit(training.step)(state, batch(0), jax.random.key(0))
  touched = np.unique(np.asarray(global_ids(jnp.asarray(batch(0)['ids']), FIELDS)))
  others = np.setdiff1d(np.arange(FIELDS.rows), touched)
  np.testing.assert_array_equal(state.params['embedding']['table'][others], table[others])


def test_the_step_needs_no_second_table():
  fields = Fields(('a', 'b'), (60_000, 40_000))
  training = row_sparse(fields, 16, PinHead(2, 2), OPTIONS, ftrl())
  one = {'ids': np.zeros((32, 2), np.int32), 'label': np.zeros(32, np.float32), 'weight': np.ones(32, np.float32)}
  state = jax.eval_shape(training.init, jax.random.key(0), one, {})
  compiled = jax.jit(training.step, donate_argnums=0).lower(state, one, jax.random.key(0)).compile()
  memory = compiled.memory_analysis()
  table = 4 * fields.padded_rows * 16
  assert memory.argument_size_in_bytes > 3 * table and memory.temp_size_in_bytes < table / 10
  assert memory.alias_size_in_bytes > 3 * table


@pytest.mark.parametrize('name', baselines.BASELINES)
def test_baselines_learn(name):
  model = baselines.baseline(name, FIELDS, 4)
  variables = model.init(jax.random.key(0), batch(0)['ids'])
  rng = np.random.default_rng(0)
  ids = np.stack([rng.integers(-1, v, 256) for v in FIELDS.sizes], axis=1).astype(np.int32)
  whole = {'label': (ids[:, 1] > 2).astype(np.float32), 'weight': np.ones(256, np.float32)}

  def loss(variables):
    return summed_loss(model.apply(variables, ids), whole) / 256

  optimizer = optax.adam(0.05)
  slots = optimizer.init(variables)

  @jax.jit
  def step(variables, slots):
    value, grads = jax.value_and_grad(loss)(variables)
    updates, slots = optimizer.update(grads, slots, variables)
    return optax.apply_updates(variables, updates), slots, value

  for _ in range(60):
    variables, slots, value = step(variables, slots)
  assert value < 0.2
  with pytest.raises(ValueError, match='deepfm'):
    baselines.baseline('deepfm', FIELDS, 4)


def test_bad_ids_are_named():
  with pytest.raises(ValueError, match="rows, row 12: field 'b' has id 7"):
    check_ids(np.array([[0, 0, 0], [0, 1, 0], [0, 7, 0]]), FIELDS, 'rows', 10)
  with pytest.raises(ValueError, match='integers'):
    check_ids(np.zeros((1, 3)), FIELDS)
  with pytest.raises(ValueError, match='distinct names'):
    Fields(('a', 'a'), (1, 2))


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'model.sub_spaces': 3}, 'embedding_size=4 cannot be cut into sub_spaces=3'),
    ({'table.alpha': 0.0}, 'alpha=0.0 must be positive'),
    ({'model.activation': 'gelu'}, 'gelu'),
    ({'baselines': ('svm',)}, 'svm'),
    ({'data.dataset': 'criteo'}, 'dac.tar.gz'),
    ({'data.dataset': 'mnist'}, 'mnist'),
  ],
)
def test_a_wrong_setting_ends_in_a_sentence(changes, words):
  config = config_module.get_config('test')
  for key, value in changes.items():
    *parents, last = key.split('.')
    node = config
    for parent in parents:
      node = node[parent]
    node[last] = value
  with pytest.raises(UserError, match=words):
    experiment.experiment(config)


def child(code: str, devices: int) -> str:
  environment = {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
    'PYTHONPATH': str(ROOT),
  }
  done = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(code)], env=environment, cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return done.stdout


def test_sharded_tables_equal_one_device():
  out = child(
    """
    import jax, numpy as np
    from jaxpapers.engine import parallel
    from jaxpapers.xdeepint.evaluation import xdeepint_logits
    from jaxpapers.xdeepint.training import SHARDING, row_sparse, weights_table
    from jaxpapers.xdeepint.optimizers import ftrl
    from tests.xdeepint.test_training import FIELDS, HEAD, OPTIONS, batch, train
    mesh = parallel.make_mesh({'data': 2, 'model': 2})
    single, _ = train(row_sparse(FIELDS, 4, HEAD, OPTIONS, ftrl()), 20)
    for stored in (True, False):
      training = row_sparse(FIELDS, 4, HEAD, OPTIONS, ftrl(), store_weights=stored, mesh=mesh)
      first = parallel.global_batch(batch(0), mesh)
      arguments = (jax.random.key(0), first, {})
      _, shardings = parallel.abstract_state(training.init, arguments, SHARDING, mesh)
      state = jax.jit(training.init, out_shardings=shardings)(*arguments)
      step = parallel.compile_step('jit', training.step, shardings, mesh, jax.random.key(1))
      for i in range(20):
        state, _ = step(state, step.put(batch(i)), i)
      n = state.opt_state['embedding'].n
      assert n.addressable_data(0).shape == (FIELDS.padded_rows // 2, 4), n.sharding
      got, want = (np.asarray(weights_table(s, OPTIONS)) for s in (state, single))
      assert np.array_equal(np.any(got, 1), np.any(want, 1)) and np.any(want)
      print('difference', np.max(np.abs(got - want)) / np.max(np.abs(want)))
    logits = [
      jax.jit(xdeepint_logits(FIELDS, HEAD, OPTIONS, m))(s, b)
      for s, m, b in ((single, None, batch(3)['ids']), (state, mesh, parallel.global_batch(batch(3), mesh)['ids']))
    ]
    print('difference', np.max(np.abs(np.asarray(logits[0]) - np.asarray(logits[1]))))
    """,
    4,
  )
  differences = [float(line.split()[1]) for line in out.splitlines() if line.startswith('difference')]
  assert len(differences) == 3 and max(differences) < 1e-6, differences


def test_pmap_sums_gradients_before_they_are_squared():
  out = child(
    """
    import jax, numpy as np
    from jaxpapers.engine import parallel
    from jaxpapers.xdeepint.optimizers import ftrl
    from jaxpapers.xdeepint.training import row_sparse
    from tests.xdeepint.test_training import FIELDS, HEAD, OPTIONS, batch, train
    single, _ = train(row_sparse(FIELDS, 4, HEAD, OPTIONS, ftrl()), 5)
    mesh = parallel.make_mesh({'data': -1, 'model': 1})
    training = row_sparse(FIELDS, 4, HEAD, OPTIONS, ftrl(), axis_name='data')
    arguments = (jax.random.key(0), parallel.global_batch(batch(0), mesh), {})
    _, shardings = parallel.abstract_state(training.init, arguments, (), mesh)
    state = jax.jit(training.init, out_shardings=shardings)(*arguments)
    step = parallel.compile_step('pmap', training.step, shardings, mesh, jax.random.key(1))
    state = step.wrap(state)
    for i in range(5):
      state, _ = step(state, step.put(batch(i)), i)
    got, want = (np.asarray(s.params['embedding']['table']) for s in (step.unwrap(state), single))
    assert np.any(want)
    print('difference', np.max(np.abs(got - want)))
    """,
    2,
  )
  assert float(out.split('difference')[1]) < 1e-6


def test_the_test_variant_runs_from_end_to_end(tmp_path):
  command = [sys.executable, 'launch/train.py', '--config=configs/xdeepint.py:test', f'--workdir={tmp_path}/run']
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, 'JAX_PLATFORMS': 'cpu'})
  assert done.returncode == 0, done.stderr[-3000:]
  final = json.loads((tmp_path / 'run' / 'report' / 'results.json').read_text())['final']
  assert set(final) == {'xdeepint', 'lr', 'path'}
  assert final['xdeepint']['test/auc'] > 0.85
  assert final['path']['tables/zero_seen_30'] > final['path']['tables/zero_seen_1']
  pictures = {p.stem for p in (tmp_path / 'run' / 'report').glob('*.png')}
  assert pictures == {'curves', 'sparsity_path', 'reliability', 'kernels', 'orders', 'norms'}
