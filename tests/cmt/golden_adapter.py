"""CMT's reference files, by file name: networks, head and losses, data and metrics, each in a module of its own.

Each of the modules has `HANDLERS`, prefix of a file's name -> function of its path, and may have `SUPPORT`, patterns of
files that other cases read. The longest prefix that fits decides.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from tests.golden import Check, UnknownKindError

PARTS = ('golden_nets', 'golden_head', 'golden_data')


def _gather() -> tuple[dict[str, Callable[[Path], Iterable[Check]]], tuple[str, ...]]:
  handlers, support = {}, ()
  for part in PARTS:
    name = f'tests.cmt.{part}'
    try:
      module = importlib.import_module(name)
    except ModuleNotFoundError as error:
      if error.name != name:
        raise
      continue  # its files are then of an unknown kind, and fail
    handlers.update(module.HANDLERS)
    support += tuple(getattr(module, 'SUPPORT', ()))
  return handlers, support


HANDLERS, SUPPORT = _gather()


def handler(name: str, handlers: Mapping[str, Callable[[Path], Iterable[Check]]]) -> Callable[[Path], Iterable[Check]]:
  """The function of the longest prefix of a file's name.

  Raises:
    UnknownKindError: listing the known prefixes.
  """
  prefix = max((known for known in handlers if name.startswith(known)), key=len, default=None)
  if prefix is None:
    raise UnknownKindError(f'{name}: no handler for this name; known prefixes: {", ".join(sorted(handlers))}')
  return handlers[prefix]


def run(path: Path) -> Iterable[Check]:
  """Every comparison of one file."""
  return handler(path.name, HANDLERS)(path)
