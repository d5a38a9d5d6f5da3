"""The passes of `prepare` over raw text: chunks of whole lines, the split of a row, what a worker does to a chunk."""

import concurrent.futures
import dataclasses
import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxpapers.engine.errors import UserError
from jaxpapers.xdeepint.columns import Encoding, numbers
from jaxpapers.xdeepint.formats import Format, open_text, parse
from jaxpapers.xdeepint.keys import KeyColumns, KeyIndex, LevelCounts, map_distinct, texts_of

CHUNK_BYTES = 64 << 20
PART_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Chunk:
  """A run of whole lines of one file.

  Attributes:
    path: of the file.
    line: number of its first line, from 1.
    row: index of its first line among the data lines of all files.
    part: index of the input group (0: --input, 1: --test-input).
    text: its bytes, without the last newline.
  """

  path: str
  line: int
  row: int
  part: int
  text: bytes

  def parts(self) -> Iterator['Chunk']:
    """Itself in small pieces: a column of a large one would fall out of the processor's cache."""
    start, line = 0, 0
    while start <= len(self.text):
      end = self.text.find(b'\n', start + PART_BYTES)
      end = len(self.text) if end < 0 else end
      text = self.text[start:end]
      yield Chunk(self.path, self.line + line, self.row + line, self.part, text)
      start, line = end + 1, line + text.count(b'\n') + 1

  def lines(self) -> list[bytes]:
    """Its lines, without line ends."""
    lines = self.text.split(b'\n')
    return [line.rstrip(b'\r') for line in lines] if b'\r' in self.text else lines


def chunks(groups: Sequence[Sequence[str]], layout: Format, chunk_bytes: int, digest: Any = None) -> Iterator[Chunk]:
  """All data lines of the files of all groups, in order, in chunks of about `chunk_bytes`.

  Args:
    groups: files of --input, and of --test-input.
    layout: says which header every file must have.
    chunk_bytes: how much is read at once.
    digest: a hashlib object that is fed with everything read, or None.

  Raises:
    UserError: for a missing, damaged or truncated file, or another header.
  """
  row = 0
  for part, paths in enumerate(groups):
    for path in paths:
      try:
        for line, text in _blocks(path, layout, chunk_bytes, digest):
          yield Chunk(str(path), line, row, part, text)
          row += text.count(b'\n') + 1
      except (OSError, EOFError) as error:
        raise UserError(f'{path} cannot be read to its end: {error}.') from error


def _blocks(path: str, layout: Format, chunk_bytes: int, digest: Any) -> Iterator[tuple[int, bytes]]:
  """(number of the first line, text) of runs of whole lines."""
  line = 1
  with open_text(path) as file:
    if layout.header:
      first = file.readline()
      if digest is not None:
        digest.update(first)
      cells = first.rstrip(b'\r\n').decode('utf-8', 'replace').split(layout.delimiter.decode())
      if tuple(cells) != layout.header:
        raise UserError(f'{path}, line 1: the header must be {", ".join(layout.header)}, not {", ".join(cells)[:200]}.')
      line = 2
    rest = b''
    while block := file.read(chunk_bytes):
      if digest is not None:
        digest.update(block)
      head, newline, tail = (rest + block).rpartition(b'\n')
      rest = tail
      if newline:
        yield line, head
        line += head.count(b'\n') + 1
    if rest:
      yield line, rest


def splitter(rule: str, rows: int, seed: int) -> Callable[[np.ndarray, int], np.ndarray]:
  """(row indices, input group) -> 0 train, 1 valid, 2 test.

  Args:
    rule: 'official' (801 of every 1000 rows train, 199 test, no validation), 'random811' (8:1:1 by a hash of the row
      index), 'time' (the first floor(0.8 * rows) + 1 rows train, the others test), 'given' (--input trains,
      --test-input tests).
    rows: data lines in all.
    seed: of 'random811'.
  """
  if rule == 'official':
    return lambda index, part: np.where(index % 1000 <= 800, 0, 2)
  if rule == 'time':
    return lambda index, part: np.where(index <= int(0.8 * rows), 0, 2)
  if rule == 'given':
    return lambda index, part: np.full(len(index), 2 if part else 0)
  return lambda index, part: np.maximum((_hash(index, seed) % np.uint64(10)).astype(np.int64) - 7, 0)


def _hash(index: np.ndarray, seed: int) -> np.ndarray:
  """splitmix64 of (index, seed)."""
  with np.errstate(over='ignore'):
    x = index.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15) * np.uint64(seed + 1)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclasses.dataclass
class Task:
  """What a worker needs, sent once, by `_set_task`; and what it has made of it (`indices`)."""

  layout: Format
  split_rule: str
  rows: int
  seed: int
  skip_bad: bool
  encodings: list[Encoding] | None = None
  indices: dict[str, KeyIndex] = dataclasses.field(default_factory=dict)


_TASK: Task | None = None


def _set_task(task: Task) -> None:
  global _TASK
  _TASK = task


def _good_columns(chunk: Chunk, task: Task) -> tuple[Mapping[str, Sequence[bytes]], np.ndarray, int]:
  """(columns of the good lines, indices of these rows, number of bad lines).

  Raises:
    UserError: naming file, line and text of the first bad line, unless they are to be skipped.
  """
  lines = chunk.lines()

  def columns_of(lines: Sequence[bytes]) -> Mapping[str, Sequence[bytes]]:
    columns = parse(lines, task.layout)
    if task.encodings is None or task.skip_bad:
      for column in task.layout.columns:
        if column.numeric:
          values = columns[column.name]
          numbers(values, column.name, 0.0) if column.counted else Encoding(column)(values)
    return columns

  try:
    return columns_of(lines), chunk.row + np.arange(len(lines)), 0
  except ValueError:
    good = []
    for index, line in enumerate(lines):
      try:
        columns_of([line])
        good.append(index)
      except ValueError as error:
        if not task.skip_bad:
          shown = line[:160].decode('utf-8', 'replace') + ('...' if len(line) > 160 else '')
          raise UserError(
            f'{chunk.path}, line {chunk.line + index}: {error}; the line is {shown!r}. '
            '--on-bad-line=skip leaves such lines out and counts them.'
          ) from error
    return columns_of([lines[i] for i in good]), chunk.row + np.asarray(good, np.int64), len(lines) - len(good)


def _checked_keys(part: Chunk, task: Task) -> KeyColumns | None:
  """Columns of a piece as keys, numbers checked; None sends it through `_good_columns`, which names what is bad."""
  columns = KeyColumns.read(part.text, task.layout)
  if columns is None:
    return None
  try:
    for column in task.layout.columns:
      if column.numeric:
        texts = texts_of(np.unique(columns[column.name]))
        numbers(texts, column.name, 0.0) if column.counted else Encoding(column)(texts)
  except ValueError:
    return None
  return columns


def count(chunk: Chunk) -> tuple[list[int], list[int], int, dict[str, Counter]]:
  """Pass 1 on a chunk: (rows per split, positives per split, bad lines, counts of the training rows by field)."""
  task = _TASK
  rows, positives, bad = np.zeros(3, np.int64), np.zeros(3, np.int64), 0
  counts = {c.name: LevelCounts() for c in task.layout.columns if c.counted}
  for part in chunk.parts():
    keys = _checked_keys(part, task)
    if keys is not None:
      index, labels, skipped = part.row + np.arange(keys.rows), keys.labels, 0
    else:
      columns, index, skipped = _good_columns(part, task)
      labels = np.fromiter(map(int, columns[task.layout.label]), np.int64, len(index))
    split = splitter(task.split_rule, task.rows, task.seed)(index, chunk.part)
    rows += np.bincount(split, minlength=3)
    positives += np.bincount(split[labels == 1], minlength=3)
    bad += skipped
    train = split == 0
    mask = train.tolist() if keys is None else []
    for name, counter in counts.items():
      if keys is not None:
        counter.add_keys(keys[name][train])
      else:
        counter.add_texts(itertools.compress(columns[name], mask))
  return rows.tolist(), positives.tolist(), bad, {name: counter.result() for name, counter in counts.items()}


def encode(chunk: Chunk) -> list[tuple[np.ndarray, np.ndarray]]:
  """Pass 2 on a chunk: (ids [rows, F] int32, labels [rows] uint8) of every split."""
  task = _TASK
  parts = []
  for part in chunk.parts():
    keys = _checked_keys(part, task) if task.skip_bad else KeyColumns.read(part.text, task.layout)
    if keys is not None:
      index, labels = part.row + np.arange(keys.rows), keys.labels
      columns = [_encode_keys(keys[e.column.name], e, task) for e in task.encodings]
    else:
      texts, index, _ = _good_columns(part, task)
      labels = np.fromiter(map(int, texts[task.layout.label]), np.uint8, len(index))
      columns = [encoding(texts[encoding.column.name]) for encoding in task.encodings]
    split = splitter(task.split_rule, task.rows, task.seed)(index, chunk.part)
    parts.append((split, np.stack(columns, axis=1), labels))
  split, ids, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
  return [(ids[split == s], labels[split == s]) for s in range(3)]


def _encode_keys(keys: np.ndarray, encoding: Encoding, task: Task) -> np.ndarray:
  if encoding.column.numeric:
    return map_distinct(keys, encoding)
  if encoding.column.name not in task.indices:
    task.indices[encoding.column.name] = KeyIndex(encoding)
  return task.indices[encoding.column.name](keys)


def ordered_map(function: Callable, items: Iterable, task: Task, workers: int) -> Iterator:
  """function(item) for every item, in order, in `workers` processes, with few items in flight."""
  if workers <= 1:
    _set_task(task)
    yield from map(function, items)
    return
  with concurrent.futures.ProcessPoolExecutor(workers, initializer=_set_task, initargs=(task,)) as pool:
    waiting: deque = deque()
    try:
      for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > workers:
          yield waiting.popleft().result()
      while waiting:
        yield waiting.popleft().result()
    finally:
      for future in waiting:
        future.cancel()
