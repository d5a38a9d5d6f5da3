"""Columns of text into ids: what a field is made of, its vocabulary, and its encoding. NumPy only."""

import dataclasses
import itertools
import operator
from collections.abc import Mapping, Sequence

import numpy as np

from jaxpapers.xdeepint.transforms import LOG_SQUARE_BUCKETS, log_square_bin, quantile_bin, quantile_edges


@dataclasses.dataclass(frozen=True)
class Column:
  """A field of the model and how its ids come from text.

  Attributes:
    name: of the field, and of the column that it reads.
    kind: 'categorical' (each level that is frequent enough), 'log_square' (64 bins of ln(x^2 + 1)), or 'quantile:N'
      (at most N parts of like size in the training part).
    missing: 'own' gives an empty value the id -1, a zero vector; 'zero' reads it as the number 0, as the published
      Criteo run does.
  """

  name: str
  kind: str = 'categorical'
  missing: str = 'own'

  def __post_init__(self):
    """Checks kind and missing."""
    head, _, count = self.kind.partition(':')
    known = self.kind in ('categorical', 'log_square') or (head == 'quantile' and count.isdigit() and int(count) > 1)
    if not known:
      raise ValueError(f'Column {self.name!r}: kind {self.kind!r} is not categorical, log_square or quantile:N.')
    if self.missing not in ('own', 'zero'):
      raise ValueError(f"Column {self.name!r}: missing={self.missing!r} is neither 'own' nor 'zero'.")

  @property
  def numeric(self) -> bool:
    """Whether values must be numbers."""
    return self.kind != 'categorical'

  @property
  def counted(self) -> bool:
    """Whether its encoding needs counts over the training part."""
    return self.kind != 'log_square'


def frequent_levels(counts: Mapping[bytes, int], threshold: int, rule: str = 'gt') -> list[bytes]:
  """Levels, but the empty one, whose count is above (`gt`) or at least (`ge`) the threshold, as they first appeared.

  Raises:
    ValueError: for another rule.
  """
  if rule not in ('gt', 'ge'):
    raise ValueError(f"The rule of the least count is 'gt' or 'ge', not {rule!r}.")
  least = threshold + 1 if rule == 'gt' else threshold
  return [level for level, count in counts.items() if count >= least and level]


def number(text: bytes, column: str) -> float:
  """The number that `text` spells.

  Raises:
    ValueError: naming column and text; also for NaN and infinities.
  """
  try:
    value = float(text)
  except ValueError:
    value = float('nan')
  if not np.isfinite(value):
    raise ValueError(f'column {column!r} holds {text.decode("utf-8", "replace")!r}, which is no number')
  return value


def numbers(texts: Sequence[bytes], column: str, empty: float) -> np.ndarray:
  """[rows] texts -> [rows] float64; the empty text gives `empty`.

  Raises:
    ValueError: naming column and text of the first that is no finite number.
  """
  filler = repr(empty).encode()
  try:
    values = np.fromiter(map(float, [text or filler for text in texts]), np.float64, len(texts))
    good = np.count_nonzero(np.isfinite(values)) + (0 if np.isfinite(empty) else sum(map(operator.not_, texts)))
  except ValueError:
    good = -1
  if good != len(texts):
    for text in filter(None, texts):
      number(text, column)
  return values


class Encoding:
  """Ids of one column: text -> local id, -1 for missing and for levels outside the vocabulary."""

  def __init__(self, column: Column, levels: Sequence[bytes] = (), edges: Sequence[float] = ()):
    """`levels` of a categorical column, in order of their ids; inner `edges` of a quantile column."""
    self.column, self.levels, self.edges = column, list(levels), np.asarray(edges, np.float64)
    self._ids = {level: index for index, level in enumerate(self.levels)}

  @property
  def size(self) -> int:
    """Number of ids."""
    if self.column.kind == 'log_square':
      return LOG_SQUARE_BUCKETS
    return len(self.edges) + 1 if self.column.numeric else len(self.levels)

  def __call__(self, values: Sequence[bytes]) -> np.ndarray:
    """[rows] texts -> [rows] int32.

    Raises:
      ValueError: naming column and text of a value that is no number.
    """
    column = self.column
    if column.numeric:
      x = numbers(values, column.name, float('nan') if column.missing == 'own' else 0.0)
      if column.kind != 'log_square':
        return quantile_bin(x, self.edges)
      bins = log_square_bin(x)
      if bins.size and bins.max() >= LOG_SQUARE_BUCKETS:
        worst = x[int(np.argmax(bins))]
        raise ValueError(f'column {column.name!r} holds {worst:g}, beyond the {LOG_SQUARE_BUCKETS} log-square bins')
      return bins
    return np.fromiter(map(self._ids.get, values, itertools.repeat(-1)), np.int32, len(values))


def make_encoding(column: Column, counts: Mapping[bytes, int], threshold: int, rule: str = 'gt') -> Encoding:
  """The encoding that the counts over the training part give."""
  if column.kind == 'log_square':
    return Encoding(column)
  if column.kind == 'categorical':
    return Encoding(column, frequent_levels(counts, threshold, rule))
  texts = [text for text in counts if text]
  values = np.repeat([number(text, column.name) for text in texts], [counts[text] for text in texts])
  return Encoding(column, edges=quantile_edges(values, int(column.kind.partition(':')[2])))


class RecordEncoder:
  """Ids of new records, for prediction."""

  def __init__(self, encodings: Sequence[Encoding]):
    """One encoding per field, in the model's order."""
    self.encodings = list(encodings)

  def __call__(self, records: Mapping[str, Sequence[object]]) -> np.ndarray:
    """{field: [rows] values} -> ids [rows, F] int32; None is a missing value.

    Raises:
      ValueError: naming a field that is unknown, missing, of another length, or holds NaN or no number.
    """
    names = [encoding.column.name for encoding in self.encodings]
    unknown, missing = [n for n in records if n not in names], [n for n in names if n not in records]
    if unknown or missing:
      raise ValueError(
        f'The records do not have the fields of the model: unknown {unknown}, missing {missing}; '
        f'it has {", ".join(names)}.'
      )
    lengths = {name: len(records[name]) for name in names}
    if len(set(lengths.values())) > 1:
      raise ValueError(f'The fields of the records have different lengths: {lengths}.')
    return np.stack([self._column(encoding, records[encoding.column.name]) for encoding in self.encodings], axis=1)

  def _column(self, encoding: Encoding, values: Sequence[object]) -> np.ndarray:
    for row, value in enumerate(values):
      if isinstance(value, float) and np.isnan(value):
        raise ValueError(f'Field {encoding.column.name!r}, row {row} is NaN; a missing value is None.')
    texts = [b'' if value is None else value if isinstance(value, bytes) else str(value).encode() for value in values]
    try:
      return encoding(texts)
    except ValueError as error:
      raise ValueError(f'Bad record: {error}.') from error
