"""Programs of launch/ called in the process of a test."""

import importlib
import sys

from absl import flags
from absl.testing import flagsaver


def call(name: str, /, **values) -> None:
  """Runs `main` of launch/<name>.py with these flags. Programs may define flags of one name: only its own are there."""
  for module, defined in list(flags.FLAGS.flags_by_module_dict().items()):
    # The engine defines --config for the program that asks for it.
    if module.startswith('launch.') or module == 'jaxpapers.engine.cli':
      if module.startswith('launch.'):
        sys.modules.pop(module, None)
      for flag in list(defined):
        delattr(flags.FLAGS, flag.name)
  program = importlib.import_module(f'launch.{name}')
  if not flags.FLAGS.is_parsed():
    flags.FLAGS([name])
  with flagsaver.flagsaver(**values):
    program.main()
