"""What the benchmark compares with finds the same, and stands beside rows that exist; no time is judged."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import predictive_exit as config_module
from jaxpapers.engine import UserError
from jaxpapers.engine.measure import Measurement
from jaxpapers.predictive_exit import benchmarks, model, peers, prediction, scores, sweep
from jaxpapers.predictive_exit.exits import PooledExits
from jaxpapers.predictive_exit.experiment import experiment
from jaxpapers.predictive_exit.official import import_official
from jaxpapers.predictive_exit.torch_network import torch_network
from jaxpapers.predictive_exit.vgg import POOL, ConvNet

SIZES = benchmarks.Sizes(60, 80, 7, 20)


@pytest.fixture(scope='module')
def config():
  config = config_module.get_config('test')
  config.seeds = 1
  return config


@pytest.fixture(scope='module')
def found():
  return benchmarks.given(SIZES)


def test_a_sweep_in_loops_finds_the_same(found):
  places = np.array([0, 2, 4, 6])
  rows = peers.looped_sweep(found, places)()
  assert peers.looped_sweep(found, places[:2], lists=False)() == {name: line[:2] for name, line in rows.items()}
  with jax.enable_x64(True):
    sets = (sweep.scored(jax.tree.map(jnp.asarray, t), scores.max_prob) for t in (found.calibration, found.test))
    curves = jax.jit(benchmarks.swept(found))(*sets)
  assert set(rows) == set(curves)
  for name, curve in curves.items():
    for field, wanted in zip(rows[name][0]._fields, np.transpose(rows[name]), strict=True):
      np.testing.assert_allclose(
        np.asarray(getattr(curve, field))[places], wanted, rtol=1e-6, err_msg=f'{name} {field}'
      )
  depth = np.asarray(curves['predictive'].depth)
  assert np.ptp(depth) > 5 and np.any(depth != np.asarray(curves['classic'].depth))


def test_the_official_walk_in_loops_goes_the_same_way(found):
  with jax.enable_x64(True):
    wide = (np.asarray(found.test.logits, np.float64), np.asarray(found.levels, np.float64))
    walk = jax.jit(lambda *x: prediction.official_walk(*x, benchmarks.BETA, benchmarks.START))(*wide)
  walk = jax.device_get(walk)
  rows = peers.looped_walk(found)()
  assert [row[0] for row in rows] == walk.exit.tolist() and len(set(walk.exit.tolist())) > 4
  assert [[v for v in row[1] if v < 15] for row in rows] == [np.flatnonzero(v).tolist() for v in walk.visited]
  assert [row[2] for row in rows] == walk.label.tolist()


@pytest.fixture
def traced(monkeypatch):
  """Programs are traced and not compiled: shapes of their results by name."""
  shapes = {}

  def measure(name, step, arguments, examples, repeats, dtype='float32', beside=''):
    shapes[name] = jax.eval_shape(step, *arguments)
    return Measurement(name, examples, 1.0, dtype=dtype, beside=beside)

  monkeypatch.setattr(benchmarks, 'measure', measure)
  return shapes


def test_rows_and_what_stands_beside_them(monkeypatch, traced, config, found):
  rows = benchmarks.policy_programs(1, SIZES)
  assert {row.name: (row.examples, row.dtype) for row in rows} == {
    benchmarks.SWEEP: (7 * 60, 'float32'),
    benchmarks.WALK: (60, 'float32'),
    benchmarks.DVFS: (60, 'float64'),
    benchmarks.TABLE: (1, 'float64'),
  }
  assert traced[benchmarks.DVFS].energy.shape == (60,)
  assert traced[benchmarks.TABLE].value.shape == (17, benchmarks.BINS, 8, 21)
  monkeypatch.setattr(peers, 'median_seconds', lambda call, repeats: 1.0)
  monkeypatch.setattr(benchmarks, 'given', lambda: found)
  loops = peers.PEERS['loop'](config, repeats=1, threads=1)
  assert [(row.beside, row.dtype) for row in loops] == [
    *[(benchmarks.SWEEP, 'float32')] * 2,
    (benchmarks.WALK, 'float32'),
  ]


def test_an_image_leaves_at_the_exit_that_is_said(monkeypatch):
  found = {}

  def measure(name, step, arguments, *_):
    found[name] = jax.jit(step)(*arguments)
    return Measurement(name, 1, 1.0)

  monkeypatch.setattr(benchmarks, 'measure', measure)
  net = model.MultiExit(ConvNet((4, 4, POOL), (0, 1), 3), PooledExits(2, 3, 4), 2, 2)
  _, lines = benchmarks.real_exits(1, net, left_at=1)
  plain, left = found.values()
  assert plain.shape == (1, 3) and left.exit.tolist() == [1] and left.visited.tolist() == [[True, True]]
  assert 'leaving 2 exits at number 2' in lines[0]


def test_absent_torch_and_other_settings_are_named(monkeypatch, config):
  with pytest.raises(ValueError, match='digits_bof'):
    torch_network(None, model.network('pooled_vgg19', 10), 3)
  monkeypatch.setitem(sys.modules, 'torch', None)
  with pytest.raises(UserError, match='needs PyTorch'):
    peers.PEERS['torch'](config, repeats=1, threads=1)


def test_torch_stands_beside_stages(config):
  pytest.importorskip('torch', reason='PyTorch is not installed')
  names = {f'{s.name} {name}' for s in experiment(config).stages for name in ('train', s.evaluations[0].name)}
  rows = peers.PEERS['torch'](config, repeats=1, threads=1)
  assert {row.beside for row in rows} == names and len(rows) == len(names)
  assert {row.examples for row in rows} == {config.data.batch_size, config.data.eval_batch_size}
  with pytest.raises(UserError, match='seeds=1'):
    peers.PEERS['torch'](config_module.get_config('test'), repeats=1, threads=1)


@pytest.mark.parametrize('train', [False, True])
def test_the_torch_network_is_ours(train):
  torch = pytest.importorskip('torch', reason='PyTorch is not installed')
  ours = model.network('digits_bof', 10)
  theirs = torch_network(torch, ours, 1)
  torch.manual_seed(0)
  for name, value in theirs.state_dict().items():
    if value.ndim == 1 and value.is_floating_point():
      value.copy_(0.5 + torch.rand_like(value) if name.endswith(('var', 'weight')) else value + torch.rand_like(value))
  variables = import_official({k: v.numpy().copy() for k, v in theirs.state_dict().items()}, ours, channels=1)
  images = np.random.default_rng(0).normal(size=(5, 16, 16, 1)).astype(np.float32)
  wanted = jax.jit(lambda v, x: ours.apply(v, x, train=train, mutable=['batch_stats'])[0])(variables, images)
  theirs.train(train)
  with torch.no_grad():
    found = theirs(torch.tensor(np.moveaxis(images, -1, 1).copy())).numpy()
    plain = theirs.eval()(torch.tensor(np.moveaxis(images, -1, 1).copy()), False)
  assert found.shape == (5, 14, 10) and plain.shape == (5, 1, 10)
  np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)
