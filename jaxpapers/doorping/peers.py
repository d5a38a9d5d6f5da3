"""The costly parts of a run in eager PyTorch, for `launch/benchmark.py --peer=torch`; ours are in `benchmarks`."""

from collections.abc import Callable

import ml_collections

from jaxpapers.doorping import benchmarks, parts, torch_parts
from jaxpapers.doorping.parts import CLEANSE_EACH, CLEANSE_RUNS
from jaxpapers.engine.measure import Measurement, median_seconds


def torch_peer(config: ml_collections.ConfigDict, *, repeats: int, threads: int) -> list[Measurement]:
  """The parts of `benchmarks` in eager PyTorch, whatever the settings.

  Args:
    config: not used.
    repeats: timed calls, at most as many as of ours.
    threads: of PyTorch; 0 leaves its default.

  Raises:
    UserError: if torch is not installed.
  """
  del config
  repeats = min(repeats, benchmarks.MOST)
  calls, counts = torch_parts.theirs(benchmarks.SIZES, threads), parts.examples(benchmarks.SIZES)
  # Label after label is what PyTorch does: it stands beside our one program for them.
  ours = {name: CLEANSE_EACH if name == CLEANSE_RUNS else name for name in calls}
  return [
    Measurement(f'torch: {name}', counts[name], median_seconds(call, repeats), beside=ours[name])
    for name, call in calls.items()
  ]


PEERS: dict[str, Callable[..., list[Measurement]]] = {'torch': torch_peer}
