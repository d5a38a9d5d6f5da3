"""The files of a prepared folder, and their writing. NumPy only."""

import os
from pathlib import Path

import numpy as np

FORMAT_VERSION = 1
SPLITS = ('train', 'valid', 'test')
META = 'meta.json'


def shard_path(folder: Path, split: str, what: str, index: int) -> Path:
  """`folder/split/ids-00000.npy`; `what` is ids or labels."""
  return folder / split / f'{what}-{index:05d}.npy'


def shard_lengths(rows: int, rows_per_shard: int) -> list[int]:
  """Rows of each shard."""
  return [min(rows_per_shard, rows - start) for start in range(0, rows, rows_per_shard)]


class ShardWriter:
  """Writes the shards of one split; a shard gets its name when it is complete, and is then never touched again."""

  def __init__(self, folder: Path, split: str, rows: int, rows_per_shard: int, fields: int):
    """Looks which shards of `rows` rows of `fields` ids are already complete."""
    self._folder, self._split, self._size, self._fields = folder, split, rows_per_shard, fields
    self._lengths = shard_lengths(rows, rows_per_shard)
    if rows:
      (folder / split).mkdir(exist_ok=True)
    self._done = [self._complete(index) for index in range(len(self._lengths))]
    self._filled = [0] * len(self._lengths)
    self._open: dict[int, tuple[np.ndarray, np.ndarray]] = {}

  def _complete(self, index: int) -> bool:
    for what, shape in (('ids', (self._lengths[index], self._fields)), ('labels', (self._lengths[index],))):
      path = shard_path(self._folder, self._split, what, index)
      try:
        if np.load(path, mmap_mode='r', allow_pickle=False).shape != shape:
          return False
      except (OSError, ValueError, EOFError):
        return False
    return True

  def needs(self, start: int, rows: int) -> bool:
    """Whether rows start..start + rows - 1 touch a shard that is not complete."""
    first, last = start // self._size, (start + rows - 1) // self._size
    return rows > 0 and not all(self._done[first : last + 1])

  def write(self, start: int, ids: np.ndarray, labels: np.ndarray) -> None:
    """Rows from `start` on: ids [rows, F], labels [rows]; parts of complete shards are left out."""
    while len(ids):
      index, offset = divmod(start, self._size)
      count = min(len(ids), self._lengths[index] - offset)
      if not self._done[index]:
        files = self._files(index)
        files[0][offset : offset + count], files[1][offset : offset + count] = ids[:count], labels[:count]
        self._filled[index] += count
        if self._filled[index] == self._lengths[index]:
          self._finish(index)
      start, ids, labels = start + count, ids[count:], labels[count:]

  def _files(self, index: int) -> tuple[np.ndarray, np.ndarray]:
    if index not in self._open:
      shapes = {'ids': ((self._lengths[index], self._fields), np.int32), 'labels': ((self._lengths[index],), np.uint8)}
      self._open[index] = tuple(
        np.lib.format.open_memmap(self._temporary(what, index), mode='w+', dtype=dtype, shape=shape)
        for what, (shape, dtype) in shapes.items()
      )
    return self._open[index]

  def _temporary(self, what: str, index: int) -> Path:
    path = shard_path(self._folder, self._split, what, index)
    return path.with_name(path.name + '.tmp')

  def _finish(self, index: int) -> None:
    for array in self._open.pop(index):
      array.flush()
    # The labels come last: a shard counts as complete when both have their names.
    for what in ('ids', 'labels'):
      os.replace(self._temporary(what, index), shard_path(self._folder, self._split, what, index))
    self._done[index] = True
