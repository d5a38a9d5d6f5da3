"""CMT's reference files, by file name: networks, head and losses, data and metrics, each in a module of its own.

Each of the modules has `HANDLERS`, prefix of a file's name -> function of its path. The longest prefix decides.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from tests.cmt import golden_data, golden_head, golden_nets
from tests.golden import Check, UnknownKindError

HANDLERS = {**golden_nets.HANDLERS, **golden_head.HANDLERS, **golden_data.HANDLERS}
SUPPORT = golden_data.SUPPORT


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
