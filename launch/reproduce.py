"""The scoreboard: runs every claim of every paper that can be checked here, over seeds, and judges it.

python launch/reproduce.py
python launch/reproduce.py --only=xdeepint --seeds=5 --out=runs/scoreboard
python launch/reproduce.py --data_dir=FOLDER    # with real data in FOLDER/<method>

Writes scoreboard.json, scoreboard.md and scoreboard.html. A claim that fails is printed as failing and is no error. The
same command goes on where it was stopped; a run that is finished is not run again.
"""

import dataclasses
import signal
from pathlib import Path

from absl import flags

from jaxpapers.engine import cli
from jaxpapers.engine.claims import Run
from jaxpapers.engine.errors import UserError

_ONLY = flags.DEFINE_string('only', '', 'one method')
_SEEDS = flags.DEFINE_integer('seeds', 3, 'runs of each setting, two or more for an interval')
_OUT = flags.DEFINE_string('out', 'runs/scoreboard', 'folder of the scoreboard and its runs')
_DATA_DIR = flags.DEFINE_string('data_dir', '', 'folder with real data, one subfolder a method')
_VARIANT = flags.DEFINE_string('variant', '', 'run this variant for every claim: tries the machinery, proves nothing')


def main() -> None:
  """Measures the claims."""
  from jaxpapers.engine import reproduction

  if _SEEDS.value < 1:
    raise UserError(f'--seeds={_SEEDS.value}: at least 1.')
  if _DATA_DIR.value and not Path(_DATA_DIR.value).is_dir():
    raise UserError(f'--data_dir={_DATA_DIR.value} is no folder.')
  root = Path(__file__).resolve().parent.parent
  claims = {slug: reproduction.claims_of(slug) for slug in reproduction.rooms(root, _ONLY.value)}
  if _VARIANT.value:
    claims = {
      slug: [dataclasses.replace(c, run=Run(_VARIANT.value)) if c.run and not c.data else c for c in several]
      for slug, several in claims.items()
    }
  plan = reproduction.Plan(
    claims,
    _SEEDS.value,
    Path(_OUT.value).resolve(),
    Path(_DATA_DIR.value).resolve() if _DATA_DIR.value else None,
    root,
  )
  # SIGTERM is passed on to the run like Ctrl-C, so that it saves its state.
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  reproduction.reproduce(plan, reproduction.in_a_process, lambda text: print(text, flush=True))


if __name__ == '__main__':
  cli.main(main)
