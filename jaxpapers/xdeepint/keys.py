"""Text of short values at array speed: a value of up to eight bytes is one unsigned 64-bit number.

Logs such as Criteo's hold hashes of eight digits and small integers. Where every value of a piece of text that the
model uses is that short and every line is as it should be, columns are cut, counted and encoded without a Python object
per value. All else (longer values, bad lines, derived columns) goes through `formats.parse`, with the same results.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from jaxpapers.xdeepint.columns import Encoding
from jaxpapers.xdeepint.formats import Format

_BYTES = 8
_MASKS = np.array([(1 << (8 * n)) - 1 for n in range(_BYTES + 1)], np.uint64)
_NEWLINE = 10


def texts_of(keys: np.ndarray) -> list[bytes]:
  """The values that keys stand for."""
  return np.ascontiguousarray(keys, '<u8').view(f'S{_BYTES}').tolist()


def keys_of(texts: Sequence[bytes]) -> np.ndarray:
  """Inverse of `texts_of` for values of up to eight bytes without zero bytes."""
  return np.array(texts, f'S{_BYTES}').view('<u8') if len(texts) else np.zeros(0, np.uint64)


class KeyColumns:
  """The columns of a piece of text, as keys.

  Attributes:
    rows: number of lines.
    labels: [rows] uint8, 0 or 1.
  """

  def __init__(self, words: np.ndarray, starts: np.ndarray, lengths: np.ndarray, layout: Format, labels: np.ndarray):
    """Made by `read`."""
    self._words, self._starts, self._lengths = words, starts, lengths
    self._place = {name: index for index, name in enumerate(layout.names)}
    self.rows, self.labels = len(labels), labels

  @classmethod
  def read(cls, text: bytes, layout: Format) -> 'KeyColumns | None':
    """Columns of whole lines, or None where they do not lend themselves to it."""
    if layout.derive is not None or layout.missing or b'\r' in text or b'\0' in text:
      return None
    data = np.frombuffer(text + b'\n' + bytes(_BYTES), np.uint8)
    marks = np.flatnonzero((data == layout.delimiter[0]) | (data == _NEWLINE))
    width = len(layout.names)
    if marks.size % width:
      return None
    ends = marks.reshape(-1, width)
    newlines = data[ends] == _NEWLINE
    if newlines[:, :-1].any() or not newlines[:, -1].all():
      return None
    starts = np.concatenate([[0], marks[:-1] + 1]).reshape(-1, width)
    lengths = ends - starts
    place = layout.names.index(layout.label)
    used = [layout.names.index(column.name) for column in layout.columns]
    labels = data[starts[:, place]] - np.uint8(ord('0'))
    if lengths[:, used].max() > _BYTES or (lengths[:, place] != 1).any() or (labels > 1).any():
      return None
    # Every position read as eight little-endian bytes.
    words = np.ndarray((len(data) - _BYTES + 1,), '<u8', data, strides=(1,))
    return cls(words, starts, lengths, layout, labels)

  def __getitem__(self, name: str) -> np.ndarray:
    """Keys of a column, [rows] uint64."""
    place = self._place[name]
    return self._words[self._starts[:, place]] & _MASKS[self._lengths[:, place]]


def map_distinct(keys: np.ndarray, function: Callable[[Sequence[bytes]], np.ndarray]) -> np.ndarray:
  """function(texts) for every key, called with each distinct text once; [rows] -> [rows]."""
  distinct, inverse = np.unique(keys, return_inverse=True)
  return function(texts_of(distinct))[inverse.reshape(-1)]


class KeyIndex:
  """Ids of keys under the vocabulary of a categorical encoding."""

  def __init__(self, encoding: Encoding):
    """Sorts the levels that a key can stand for; the others never occur among keys."""
    places = [i for i, level in enumerate(encoding.levels) if len(level) <= _BYTES]
    keys = keys_of([encoding.levels[i] for i in places])
    order = np.argsort(keys)
    # A last entry that no key equals takes the searches that run off the end.
    self._keys = np.append(keys[order], np.uint64(0))
    self._ids = np.append(np.asarray(places, np.int32)[order], np.int32(-1))

  def __call__(self, keys: np.ndarray) -> np.ndarray:
    """[rows] uint64 -> [rows] int32, -1 for levels outside the vocabulary."""
    place = np.searchsorted(self._keys[:-1], keys)
    return np.where(self._keys[place] == keys, self._ids[place], np.int32(-1))


class LevelCounts:
  """Counts of a column, in order of first appearance, from keys and from texts."""

  def __init__(self):
    """Nothing counted yet."""
    self._counts: Counter = Counter()
    self._waiting: list[np.ndarray] = []

  def add_keys(self, keys: np.ndarray) -> None:
    """Counts keys; they are looked at together with the next ones."""
    self._waiting.append(keys)

  def add_texts(self, texts: Iterable[bytes]) -> None:
    """Counts texts."""
    self._flush()
    self._counts.update(texts)

  def result(self) -> Counter:
    """All counts so far."""
    self._flush()
    return self._counts

  def _flush(self) -> None:
    if not self._waiting:
      return
    keys, first, counts = np.unique(np.concatenate(self._waiting), return_index=True, return_counts=True)
    self._waiting = []
    order = np.argsort(first)
    self._counts.update(dict(zip(texts_of(keys[order]), counts[order].tolist(), strict=True)))
