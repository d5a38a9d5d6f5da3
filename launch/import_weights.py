"""Turns the authors' weights file into a workdir that train.py (--config.init_from) and evaluate.py take.

python launch/import_weights.py --config=configs/emo.py:imagenet1k --weights=net.pth --workdir=runs/emo/released
"""

from absl import flags

from jaxpapers.engine import cli
from jaxpapers.engine.errors import UserError

cli.define_config()
_WEIGHTS = flags.DEFINE_string('weights', '', '.npz, .safetensors, or .pth where torch is installed')
_WORKDIR = flags.DEFINE_string('workdir', '', 'new folder for the checkpoint')


def main() -> None:
  """Imports strictly: a missing, unexpected or misshapen key is an error, and nothing is written."""
  for flag in (_WEIGHTS, _WORKDIR):
    if not flag.value:
      raise UserError(f'--{flag.name} is missing: {flag.help}.')
  config = cli.config()
  from jaxpapers.engine import logs, weight_files, weights

  room = cli.room(config.method)
  if not hasattr(room, 'import_variables'):
    raise UserError(f'{config.method} has no official weights to import.')
  variables = room.import_variables(config, weight_files.read_weights(_WEIGHTS.value))
  weights.save_variables(_WORKDIR.value, config, variables)
  logs.say(f'imported into {_WORKDIR.value}; use it as --config.init_from={_WORKDIR.value} or evaluate it')


if __name__ == '__main__':
  cli.main(main)
