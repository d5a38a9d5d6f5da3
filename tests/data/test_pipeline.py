import itertools
import subprocess
import sys

import numpy as np
import pytest

from jaxpapers import data
from jaxpapers.engine.errors import UserError
from tests.data import toy

ARRAYS = data.ArraySource({'x': np.arange(37.0)[:, None] * np.ones(3), 'label': np.arange(37)})
KINDS = {
  'examples': (toy.Examples(), {}),
  'augmented examples': (toy.Examples(), {'augment': toy.jitter}),
  'arrays': (ARRAYS, {}),
  'augmented arrays': (ARRAYS, {'batch_augment': toy.jitter_batch}),
  'array rows': (ARRAYS, {'augment': toy.jitter}),
}
kinds = pytest.mark.parametrize('kind', KINDS)


def make(kind, **overrides):
  source, options = KINDS[kind]
  return data.batches(source, **{'seed': 3, 'batch_size': 8, **options, **overrides})


def assert_equal(a, b):
  assert a.keys() == b.keys()
  for key in a:
    np.testing.assert_array_equal(a[key], b[key])


@kinds
@pytest.mark.parametrize('processes', [1, 2, 4])
def test_shares_of_all_processes_are_the_batch_of_one(kind, processes):
  whole = make(kind, process=0, processes=1)
  shares = [make(kind, process=p, processes=processes) for p in range(processes)]
  for step in (0, 4, 10**9):
    parts = [share(step) for share in shares]
    assert {len(part['label']) for part in parts} == {8 // processes}
    assert_equal({key: np.concatenate([part[key] for part in parts]) for key in parts[0]}, whole(step))


@kinds
def test_iterate_equals_calls_from_any_start(kind):
  pipeline, again = make(kind), make(kind)
  for start in (0, 7):
    iterator = pipeline.iterate(start)
    for step, batch in zip(range(start, start + 12), iterator, strict=False):
      assert_equal(batch, again(step))
    iterator.close()


@kinds
def test_epochs_are_different_permutations(kind):
  labels = np.concatenate([make(kind, batch_size=37)(step)['label'][None] for step in range(2)])
  assert sorted(labels[0]) == sorted(labels[1]) == list(range(37))
  assert (labels[0] != labels[1]).any() and (labels[0] != np.arange(37)).any()
  assert (make(kind, batch_size=37, seed=4)(0)['label'] != labels[0]).any()
  if KINDS[kind][1]:
    assert (make(kind, batch_size=37)(0)['x'][:, 0] != labels[0]).all()


@kinds
def test_without_shuffle_the_order_is_that_of_the_source(kind):
  pipeline = make(kind, shuffle=False)
  np.testing.assert_array_equal(pipeline(0)['label'], np.arange(8))
  np.testing.assert_array_equal(pipeline(4)['label'], [32, 33, 34, 35, 36, 0, 1, 2])


def test_worker_process_gives_the_same_order():
  for kind in ('augmented examples', 'augmented arrays'):
    iterator = make(kind, workers=1, prefetch=1).iterate(5)
    for step, batch in zip(range(5, 8), iterator, strict=False):
      assert_equal(batch, make(kind)(step))
    iterator.close()


def test_prefetch_zero_makes_batches_when_asked():
  made = []

  class Counting(toy.Examples):
    def __getitem__(self, index):
      made.append(index)
      return super().__getitem__(index)

  iterator = data.batches(Counting(), seed=0, batch_size=4, prefetch=0).iterate(2)
  next(iterator)
  assert len(made) == 4


@pytest.mark.parametrize('processes', [1, 3])
@pytest.mark.parametrize('source', [toy.Examples(), ARRAYS], ids=['examples', 'arrays'])
@pytest.mark.parametrize('batch_size', [6, 9, 60])
def test_evaluation_sees_every_example_once(source, processes, batch_size):
  seen, counts = [], set()
  for process in range(processes):
    passes = data.evaluation_batches(source, batch_size, process=process, processes=processes)
    for _ in range(2):
      batches = list(passes())
      counts.add(len(batches))
      for batch in batches:
        assert batch['x'].shape == (batch_size // processes, 3) and batch['valid'].dtype == bool
    seen += [label for batch in batches for label in batch['label'][batch['valid']]]
  assert sorted(seen) == list(range(37))
  assert counts == {len(passes)}


def test_evaluation_transforms():
  double = {'transform': lambda e: {**e, 'x': 2 * e['x']}}, {'batch_transform': lambda b: {**b, 'x': 2 * b['x']}}
  for options in double:
    batch = next(iter(data.evaluation_batches(ARRAYS, 8, **options)()))
    np.testing.assert_array_equal(batch['x'][:, 0], 2 * np.arange(8))
  with pytest.raises(UserError, match='gather'):
    data.evaluation_batches(toy.Examples(), 8, **double[1])


class Ragged(toy.Examples):
  def __getitem__(self, index):
    return {'image': np.zeros((4, 3 + index % 2)), 'label': index}


@pytest.mark.parametrize('prefetch', [0, 2])
def test_examples_of_different_shapes_are_named(prefetch):
  with pytest.raises(UserError, match=r"'image'.*\(4, 3\), \(4, 4\)"):
    next(data.batches(Ragged(), seed=0, batch_size=8, prefetch=prefetch).iterate(0))


@pytest.mark.parametrize(
  ('examples', 'message'),
  [
    ([{'a': 1}, {'b': 1}], "different keys.*'a'.*'b'"),
    ([{'a': b'text'}], "'a' holds bytes"),
    ([{'a': 'text'}], "'a' holds str"),
    ([np.zeros(3)], 'mapping'),
  ],
)
def test_stack_refuses(examples, message):
  with pytest.raises(UserError, match=message):
    data.stack(examples)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'batch_size': 9, 'process': 0, 'processes': 2}, 'batch size 9 does not divide over 2 processes'),
    ({'batch_size': 0}, 'at least 1'),
    ({'process': 2, 'processes': 2}, 'Process 2'),
    ({'seed': -1}, 'seed'),
    ({'workers': -1}, 'workers'),
    ({'augment': toy.jitter, 'batch_augment': toy.jitter_batch}, 'not both'),
  ],
)
def test_wrong_settings(options, message):
  with pytest.raises(UserError, match=message):
    make('arrays', **options)


def test_batch_augment_needs_gather():
  with pytest.raises(UserError, match='Examples has none'):
    make('examples', batch_augment=toy.jitter_batch)


def test_empty_source():
  with pytest.raises(UserError, match='empty'):
    data.batches(data.ArraySource({'x': np.zeros((0, 2))}), seed=0, batch_size=1)


def test_the_key_valid_is_taken():
  passes = data.evaluation_batches(data.ArraySource({'valid': np.ones(3)}), 2)
  with pytest.raises(UserError, match='valid'):
    list(itertools.islice(passes(), 1))


def test_importing_the_data_layer_imports_no_tensorflow():
  code = 'import sys, jaxpapers.data; print("tensorflow" in sys.modules, "torch" in sys.modules)'
  result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert result.stdout.split() == ['False', 'False']
