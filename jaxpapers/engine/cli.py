"""The command line of every program: flags, overrides, and errors in one sentence."""

import importlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import ml_collections
from absl import app, flags
from ml_collections import config_flags

from jaxpapers.engine.allocator import keep_freed_memory
from jaxpapers.engine.config import flatten
from jaxpapers.engine.errors import EXIT_NON_FINITE, EXIT_PREEMPTED, UserError, suggest

FLAGS = flags.FLAGS
_CONFIG = None
_UNLESS = ''


def define_config(unless: str = '') -> None:
  """Adds --config=FILE[:VARIANT] and its overrides --config.a.b=value.

  Args:
    unless: name of a boolean flag with which the program needs no settings.
  """
  global _CONFIG, _UNLESS
  _UNLESS = unless
  _CONFIG = config_flags.DEFINE_config_file('config', None, 'settings file, with the variant behind a colon')


def config() -> ml_collections.ConfigDict:
  """The settings with the overrides of the command line."""
  return _CONFIG.value


def main(program: Callable[[], None]) -> None:
  """Parses the command line, runs `program`, and turns a UserError into one sentence and its exit code."""
  flags.DEFINE_bool('debug', False, 'show the traceback of an error')
  app.define_help_flags()
  debug = '--debug' in sys.argv
  try:
    _parse(sys.argv)
    keep_freed_memory()
    program()
  except UserError as error:
    if debug:
      raise
    sys.stdout.flush()
    print(f'error: {error}' if error.exit_code == 2 else str(error), file=sys.stderr)
    _termination_log(str(error))
    sys.stdout.flush()
    _leave(error.exit_code)


def _leave(code: int) -> None:
  """Ends with `code`, and lets other processes end with theirs.

  When process 0 goes, JAX aborts those that are still there (code 134). So where all end by the same step they wait for
  each other; where only some may have failed, an orderly shutdown would wait for ever.
  """
  if 'jax' not in sys.modules:
    sys.exit(code)
  import jax

  if not jax.distributed.is_initialized():
    sys.exit(code)
  if code in (EXIT_NON_FINITE, EXIT_PREEMPTED):
    try:
      jax.distributed.shutdown()
    except Exception as error:
      print(f'Another process was lost at the end: {error}', file=sys.stderr)
  os._exit(code)


def _termination_log(text: str) -> None:
  """Where Kubernetes looks for a pod's last words, when the launcher names it."""
  path = os.environ.get('JAXPAPERS_TERMINATION_LOG')
  if path:
    with open(path, 'w') as file:
      file.write(text)


def _parse(argv: list[str]) -> None:
  argv = [_underscored(argument) for argument in argv]
  given = [a for a in argv[1:] if a.startswith(('--config=', '-config='))]
  exempt = ('--help', '-h', '--helpfull', '--helpshort', *([f'--{_UNLESS}'] if _UNLESS else ()))
  if _CONFIG is not None and not any(a in exempt for a in argv):
    if not given:
      raise UserError('No settings given: add --config=configs/METHOD.py or --config=configs/METHOD.py:VARIANT.')
    known = flatten(_load(given[-1].split('=', 1)[1]))
    for argument in argv[1:]:
      if argument.startswith('--config.'):
        key = argument[len('--config.') :].split('=', 1)[0]
        if key not in known:
          raise UserError(f'Unknown setting config.{key}.{suggest(key, known)}')
    # Overrides are read by the flag that --config defines, whatever the order they were typed in.
    argv = [argv[0], *given, *(a for a in argv[1:] if a not in given)]
  try:
    rest = FLAGS(argv)
  except SystemExit:  # absl has shown its help, and calls that a failure
    sys.exit(0)
  except (flags.Error, AttributeError, KeyError, ValueError, TypeError, OSError) as error:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    raise UserError(f'{lines[-1] if lines else type(error).__name__}.'.replace('..', '.')) from error
  if rest[1:]:
    raise UserError(f'Unexpected argument {rest[1]!r}: flags look like --name=value.')


def _underscored(argument: str) -> str:
  """--data-dir=x as --data_dir=x."""
  name, equals, value = argument.partition('=')
  if not name.startswith('--') or name.startswith('--config'):
    return argument
  return '--' + name[2:].replace('-', '_') + equals + value


def _load(value: str) -> ml_collections.ConfigDict:
  """The settings of FILE[:VARIANT], before any override."""
  path, _, variant = value.partition(':')
  if not os.path.isfile(path):
    raise UserError(f'There is no settings file {path!r} (looked in {os.getcwd()}).')
  spec = importlib.util.spec_from_file_location('_jaxpapers_config', path)
  if spec is None:
    raise UserError(f'{path!r} is no Python file with a get_config function.')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not hasattr(module, 'get_config'):
    raise UserError(f'{path!r} has no get_config function.')
  return module.get_config(variant) if variant else module.get_config()


def room(method: str) -> Any:
  """The module `jaxpapers.<method>.experiment`."""
  name = f'jaxpapers.{method}'
  if not method.isidentifier() or importlib.util.find_spec(name) is None:
    raise UserError(f'config.method={method!r} names no room under jaxpapers/.')
  return importlib.import_module(f'{name}.experiment')


def default_workdir(settings: ml_collections.ConfigDict) -> str:
  """runs/<method>/<variant>/<time of process 0>."""
  import jax
  import numpy as np
  from jax.experimental import multihost_utils

  now = int(time.time())
  if jax.process_count() > 1:
    now = int(multihost_utils.broadcast_one_to_all(np.int32(now)))
  stamp = time.strftime('%Y%m%d-%H%M%S', time.localtime(now))
  return os.path.join('runs', settings.method, settings.variant, stamp)
