"""Evaluates a finished or running workdir, or imported weights, and writes its report.

python launch/evaluate.py --workdir=runs/emo/default/20261124-120000
"""

from absl import flags

from jaxpapers.engine import cli
from jaxpapers.engine.errors import UserError

_WORKDIR = flags.DEFINE_string('workdir', '', 'folder of the run')
_DATA_DIR = flags.DEFINE_string('data_dir', '', 'where the data lie on this machine, if elsewhere than in training')


def main() -> None:
  """Evaluates every stage that has a checkpoint."""
  if not _WORKDIR.value:
    raise UserError('No workdir given: add --workdir=FOLDER of a run.')
  from jaxpapers.engine import loop

  config = loop.read_config(_WORKDIR.value)
  if _DATA_DIR.value:
    config.data.dir = _DATA_DIR.value
  loop.evaluate(cli.room(config.method).experiment(config), config, _WORKDIR.value)


if __name__ == '__main__':
  cli.main(main)
