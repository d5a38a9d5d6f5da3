"""An append-only file of masks' returns: days of retraining survive whatever happens to the program."""

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


class ReturnsLog:
  """Returns by mask number, in a file that only grows: a line for what it is about, then a line per chunk.

  A line holds {'id', 'return', 'kept'} lists, 'episodes' and the CRC-32 of the rest. A line that was cut off (or
  altered) counts as not written: its chunk is trained again and appended, and the broken line stays where it is.

  Attributes:
    known: {mask: (return, kept)}, float32 exactly as they were.
    damaged: number of broken lines.
  """

  def __init__(self, path: str, about: Mapping[str, Any]):
    """Opens `path`, made with its folder if missing.

    Args:
      path: of the file.
      about: what the returns depend on; JSON.

    Raises:
      ValueError: if the file was written about something else, or cannot be read.
    """
    self.known: dict[int, tuple[float, float]] = {}
    self.damaged = 0
    self._path, self._about = Path(path), json.loads(json.dumps(about))
    text = self._read()
    self._torn = bool(text) and not text.endswith('\n')
    self._headed = False
    for line in text.splitlines():
      self._take(line)

  def append(self, ids: Sequence[int], returns: Sequence[float], kept: Sequence[float], episodes: int) -> None:
    """Adds one line with those of `ids` that are not known yet, and waits until it is on disk.

    Raises:
      ValueError: if the file cannot be written.
    """
    fresh = [i for i, number in enumerate(ids) if int(number) not in self.known]
    if not fresh:
      return
    row = {
      'id': [int(ids[i]) for i in fresh],
      'return': [float(np.float32(returns[i])) for i in fresh],
      'kept': [float(np.float32(kept[i])) for i in fresh],
      'episodes': episodes,
    }
    lines = [] if self._headed else [_sealed({'about': self._about})]
    # What was cut off keeps a line of its own.
    text = ('\n' if self._torn else '') + ''.join(line + '\n' for line in [*lines, _sealed(row)])
    try:
      self._path.parent.mkdir(parents=True, exist_ok=True)
      with self._path.open('a') as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
      raise ValueError(f'The log of returns {self._path} cannot be written: {error.strerror}.') from error
    self._torn, self._headed = False, True
    self.known |= dict(zip(row['id'], zip(row['return'], row['kept'], strict=True), strict=True))

  def _read(self) -> str:
    try:
      return self._path.read_text(errors='replace') if self._path.exists() else ''
    except OSError as error:
      raise ValueError(f'The log of returns {self._path} cannot be read: {error.strerror}.') from error

  def _take(self, line: str) -> None:
    row = _opened(line)
    if row is None:
      self.damaged += 1
    elif 'about' in row:
      if row['about'] != self._about:
        names = sorted(k for k in {*row['about'], *self._about} if row['about'].get(k) != self._about.get(k))
        raise ValueError(
          f'The log of returns {self._path} is about another run: {", ".join(names)} differ. Name another file.'
        )
      self._headed = True
    elif not self._headed:
      self.damaged += 1  # nobody knows what it is about
    else:
      self.known |= dict(zip(row['id'], zip(row['return'], row['kept'], strict=True), strict=True))


def _sealed(row: Mapping[str, Any]) -> str:
  return json.dumps({**row, 'crc32': zlib.crc32(json.dumps(row, sort_keys=True).encode())})


def _opened(line: str) -> dict[str, Any] | None:
  """The row of a line, or None if it is not what was written."""
  try:
    row = json.loads(line)
    crc = row.pop('crc32')
  except (ValueError, AttributeError, KeyError, TypeError):
    return None
  return row if crc == zlib.crc32(json.dumps(row, sort_keys=True).encode()) else None
