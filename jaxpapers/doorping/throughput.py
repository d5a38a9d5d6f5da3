"""The costly parts of a run against eager PyTorch, or against the authors' figures, as ratios.

    taskset -c 0 python -m jaxpapers.doorping.throughput --peer torch

Times are processor seconds of the whole process on one core, which a busy machine inflates less than wall time.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence

from jaxpapers.doorping import parts, torch_parts
from jaxpapers.doorping.parts import (
  CLEANSE,
  CLEANSE_EACH,
  CLEANSE_RUNS,
  NETWORK,
  OUTER,
  TRIGGER,
  VICTIM,
  VICTIMS,
  VICTIMS_EACH,
)
from jaxpapers.engine.errors import UserError

# Processor seconds of the authors' program for the default sizes, on another machine.
PUBLISHED = {OUTER: 0.168, NETWORK: 0.358, TRIGGER: 0.36}
_THEIRS = ((OUTER, 0.6), (NETWORK, 0.6), (TRIGGER, 0.1))


def ratios(ours: Mapping[str, float], theirs: Mapping[str, float], whose: str) -> list[tuple[str, float, float]]:
  """(what, ratio, wanted at most) for every part that both sides have, and for lanes against runs of our own."""
  rows = [(f'{name} / {whose}', ours[name] / theirs[name], most) for name, most in _THEIRS if name in theirs]
  if CLEANSE_RUNS in theirs:
    rows += [
      (f'{name} / ten runs, {whose}', ours[name] / theirs[CLEANSE_RUNS], 0.5) for name in (CLEANSE, CLEANSE_EACH)
    ]
  rows += [(f'{name} / ten runs, ours', ours[name] / ours[CLEANSE_RUNS], 0.5) for name in (CLEANSE, CLEANSE_EACH)]
  rows += [(f'{name} / {VICTIM}, ours', ours[name] / ours[VICTIM], 2.0) for name in (VICTIMS, VICTIMS_EACH)]
  if VICTIM in theirs:
    rows += [(f'{name} / {VICTIM}, {whose}', ours[name] / theirs[VICTIM], 2.0) for name in (VICTIMS, VICTIMS_EACH)]
  return rows


def main(argv: Sequence[str] | None = None) -> int:
  """Measures, and prints seconds and ratios; 2 with one sentence where PyTorch is asked for and absent."""
  parser = argparse.ArgumentParser(prog='python -m jaxpapers.doorping.throughput', description=__doc__.split('\n')[0])
  parser.add_argument('--peer', default='', choices=('', 'torch'), help="eager PyTorch instead of the authors' figures")
  parser.add_argument('--threads', type=int, default=1, help='of PyTorch')
  parser.add_argument('--repeats', type=int, default=5)
  for name, value in parts.Sizes()._asdict().items():
    parser.add_argument(f'--{name.replace("_", "-")}', type=int, default=value)
  args = parser.parse_args(argv)
  sizes = parts.Sizes(**{name: getattr(args, name) for name in parts.Sizes._fields})
  try:
    theirs = torch_parts.theirs(sizes, args.threads) if args.peer else {}
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return error.exit_code
  calls = {('ours', name): call for name, call in parts.ours(sizes).items()}
  calls |= {('torch', name): call for name, call in theirs.items()}
  seconds = parts.processor_seconds(calls, args.repeats)
  own, other = ({name: s for (w, name), s in seconds.items() if w == whose} for whose in ('ours', 'torch'))
  print(f'{"part":26} {"ours ms":>9} {"torch ms":>9}')
  for name, value in own.items():
    print(f'{name:26} {value * 1e3:>9.1f} {f"{other[name] * 1e3:.1f}" if name in other else "":>9}')
  if not args.peer and sizes == parts.Sizes():
    other = PUBLISHED
  print(f'\n{"ratio":52} {"is":>6} {"wanted":>8}')
  for what, value, most in ratios(own, other, args.peer or 'published'):
    print(f'{what:52} {value:>6.2f} {f"<= {most:g}":>8}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
