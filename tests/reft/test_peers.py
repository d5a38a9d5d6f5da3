"""What the benchmark compares the room with: a model of the same size, beside rows that exist."""

import sys

import jax
import numpy as np
import pytest

from jaxpapers.engine.errors import UserError
from jaxpapers.engine.measure import Measurement
from jaxpapers.reft import benchmarks, peers
from tests.reft import small


@pytest.fixture(scope='module')
def net():
  return benchmarks.network(small.base(), small.CLASSES)


@pytest.fixture
def traced(monkeypatch):
  """Programs are traced instead of compiled and timed."""

  def measure(name, step, arguments, examples, repeats, beside=''):
    jax.eval_shape(step, *arguments)
    return Measurement(name, examples, 1.0, beside=beside)

  monkeypatch.setattr(benchmarks, 'measure', measure)
  monkeypatch.setattr(benchmarks, 'median_seconds', lambda *args, **options: 2.0)


def test_the_peer_stands_beside_rows_that_exist(net, traced):
  rows, lines = benchmarks.forwards(1, net, sizes=(64,))
  assert [row.name for row in rows] == [benchmarks.forward_name(64), 'RefT, cached support, 64']
  assert lines == ['RefT with cached support of 3 classes x 10 takes 1.00 of the plain time']
  rows, _ = benchmarks.published_step(1, net, 64, points=16)
  assert [row.name for row in rows] == [benchmarks.step_name(64)]


def test_loops_stand_beside_rows_that_exist(traced):
  together, loop = benchmarks.encoding(1, count=2)[0]
  assert loop.beside == together.name and loop.examples == together.examples == 2


def test_the_example_has_objects():
  example = benchmarks.example(64, objects=3)
  assert example['images'].shape == (1, 64, 64, 3) and example['masks'].shape == (1, 3, 64, 64)
  assert np.all(example['masks'].sum(axis=(2, 3)) == 21 * 16) and example['classes'].tolist() == [[0, 1, 2]]


def test_random_variables_are_finite(net):
  leaves = jax.tree.leaves(net.variables)
  assert leaves and all(np.all(np.isfinite(x)) for x in leaves)
  assert set(net.plain()) == {'params', 'frozen'}


def test_a_missing_library_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'transformers', None)
  monkeypatch.setitem(sys.modules, 'torch', sys)
  with pytest.raises(UserError, match=r'--peer=transformers needs .*pip install -e "\.\[bench\]"'):
    peers.PEERS['transformers'](None, repeats=1, threads=1)


def test_rows_of_the_other_library():
  pytest.importorskip('torch', reason='PyTorch is not installed')
  pytest.importorskip('transformers', reason='transformers is not installed')
  rows = peers.transformers_peer(
    None, repeats=1, threads=1, sizes=(64,), backbone=(1, 1, 1, 1), encoder_layers=1, decoder_layers=3
  )
  assert [row.beside for row in rows] == [benchmarks.forward_name(64), benchmarks.step_name(64)]


def test_both_libraries_have_the_same_number_of_parameters():
  pytest.importorskip('torch', reason='PyTorch is not installed')
  pytest.importorskip('transformers', reason='transformers is not installed')
  model = peers.mask2former()
  ours = benchmarks.network().plain()['params']
  learning = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
  assert sum(learning) == sum(x.size for x in jax.tree.leaves(ours)) == 43_970_257
  image = np.zeros((1, 64, 64, 3), np.float32)
  found = jax.eval_shape(lambda v: benchmarks.network().model.base.apply(v, image), benchmarks.network().plain())
  output = peers.inference(model, 64)()
  assert output.class_queries_logits.shape == found.logits.shape[1:]
  assert output.masks_queries_logits.shape == found.masks.shape[1:]
