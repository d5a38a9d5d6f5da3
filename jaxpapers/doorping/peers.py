"""The costly parts of a run for `launch/benchmark.py --peer=parts`, and beside eager PyTorch for `--peer=torch`."""

from collections.abc import Callable

import ml_collections

from jaxpapers.doorping import parts, torch_parts
from jaxpapers.engine.measure import Measurement

SIZES = parts.Sizes()


def own_parts(config: ml_collections.ConfigDict, *, repeats: int, threads: int) -> list[Measurement]:
  """Processor seconds of our parts at the size of the digits, whatever the settings.

  Args:
    config: not used.
    repeats: timed calls.
    threads: not used: start with taskset.
  """
  del config, threads
  return parts.measurements('ours:', parts.processor_seconds(parts.ours(SIZES), repeats), SIZES)


def torch_peer(config: ml_collections.ConfigDict, *, repeats: int, threads: int) -> list[Measurement]:
  """`own_parts`, and the same parts in eager PyTorch with `threads` threads, taking turns.

  Raises:
    UserError: if torch is not installed.
  """
  del config
  calls = {f'torch: {name}': call for name, call in torch_parts.theirs(SIZES, threads).items()}
  calls |= {f'ours: {name}': call for name, call in parts.ours(SIZES).items()}
  counts = parts.examples(SIZES)
  seconds = parts.processor_seconds(calls, repeats)
  return [Measurement(name, counts[name.split(': ')[1]], value) for name, value in seconds.items()]


PEERS: dict[str, Callable[..., list[Measurement]]] = {'parts': own_parts, 'torch': torch_peer}
