"""The costly parts of a run at the size of the digits, whatever the settings.

`launch/benchmark.py` runs it after the stages of the config. For processor seconds on a busy machine there is
`python -m jaxpapers.doorping.throughput`.
"""

import functools

from jaxpapers.doorping import parts
from jaxpapers.doorping.parts import CLEANSE_EACH, CLEANSE_RUNS
from jaxpapers.engine.benchmarks import Case
from jaxpapers.engine.measure import Measurement, measure, median_seconds

# One distillation: the default's eight are lanes that run one after the other on CPU.
CASES: tuple[Case, ...] = (
  Case('default', ('seeds=1', "attacks=('doorping',)", 'defences.enabled=False'), ('distill',)),
)
MOST = 3  # timed calls of a part; some take seconds
SIZES = parts.Sizes()


def programs(repeats: int, sizes: parts.Sizes = SIZES) -> tuple[list[Measurement], list[str]]:
  """Measurements of every part; those of one label after another stand beside one program for all labels."""
  counts, repeats = parts.examples(sizes), min(repeats, MOST)
  return [_row(name, call, counts[name], repeats) for name, call in parts.ours(sizes).items()], []


def _row(name: str, call: functools.partial, examples: int, repeats: int) -> Measurement:
  if name == CLEANSE_RUNS:
    return Measurement(name, examples, median_seconds(call, repeats), beside=CLEANSE_EACH)
  return measure(name, call.func, call.args, examples, repeats)
