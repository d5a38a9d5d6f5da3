import itertools

import jax
import numpy as np

from jaxpapers.reliant import data, throughput
from jaxpapers.reliant.problem import Splits
from tests.reliant import toy


def test_every_program_of_the_benchmark_goes_on_training():
  x, y, s = toy.arrays()
  splits = Splits(np.arange(8), np.arange(8, 12), np.arange(12, toy.NODES))
  loaded = data.Dataset('toy', x, *toy.edges(), y, s, splits, tuple('abcde'))
  calls = throughput.programs(loaded, 2, ('map',))
  assert list(calls) == [
    'teacher epoch',
    'teacher eval',
    'vanilla epoch',
    'RELIANT epoch',
    'student eval',
    'RELIANT epoch, 2 seeds, map',
  ]
  for name in ('teacher epoch', 'student eval', 'RELIANT epoch, 2 seeds, map'):
    call = calls[name]
    first, second = jax.device_get(call()), jax.device_get(call())
    if 'epoch' in name:
      assert (second.step == first.step + 1).all()
      assert not np.array_equal(jax.tree.leaves(second.params)[0], jax.tree.leaves(first.params)[0])
    else:
      np.testing.assert_array_equal(first, second)
  assert second.step.shape == (2,)


def test_calls_take_turns_and_ratios_compare_what_they_say():
  order, ticks = [], itertools.count()
  calls = {name: lambda name=name: order.append(name) for name in ('a', 'b')}
  seconds = throughput.measured(calls, 3, lambda: float(next(ticks)))
  assert order == ['a', 'b'] * 4 and seconds == {'a': 1.0, 'b': 1.0}
  seconds = {
    'teacher epoch': 1.0,
    'teacher eval': 0.5,
    'vanilla epoch': 11.0,
    'RELIANT epoch': 20.0,
    'student eval': 1.0,
    'RELIANT epoch, 8 seeds, vmap': 240.0,
    'PyG GCN epoch, edges': 3.0,
    'PyG GCN eval, CSR': 1.0,
  }
  assert throughput.ratios(seconds, 8) == {
    'RELIANT epoch / vanilla epoch': 20.0 / 11.0,
    'student eval / vanilla epoch without it': 0.1,
    '8 seeds in one program (vmap) / 8 single ones': 1.5,
    'PyG GCN epoch, edges / teacher epoch': 3.0,
    'PyG GCN eval, CSR / teacher eval': 2.0,
  }
