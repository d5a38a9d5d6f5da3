"""Files of the data sets as their authors ship them, and a user's own table; on the host, in NumPy."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from jaxpapers.reliant.problem import Splits


class Table(NamedTuple):
  """Columns of a CSV file: names, and values [rows, columns] float64."""

  columns: tuple[str, ...]
  values: np.ndarray

  def column(self, name: str, role: str) -> np.ndarray:
    """Values of column `name`, [rows].

    Raises:
      ValueError: if there is none, with those that there are.
    """
    if name not in self.columns:
      raise ValueError(f'The table has no {role} column {name!r}; its columns are {", ".join(self.columns)}.')
    return self.values[:, self.columns.index(name)]


def read_table(path: Path, how: str = '') -> Table:
  """A CSV file with a header and numbers below it.

  Raises:
    FileNotFoundError: saying how to get the file.
    ValueError: naming the line of a cell that is no number, or of a short row.
  """
  _exists(path, how)
  with path.open(newline='') as file:
    reader = csv.reader(file)
    try:
      header = tuple(name.strip() for name in next(reader))
    except StopIteration:
      raise ValueError(f'{path} is empty.') from None
    rows = []
    for number, row in enumerate(reader, 2):
      if not row:
        continue
      if len(row) != len(header):
        raise ValueError(f'{path}, line {number} has {len(row)} cells, but the header has {len(header)}.')
      try:
        rows.append([float(cell) for cell in row])
      except ValueError:
        raise ValueError(f'{path}, line {number} holds a cell that is no number: {row}.') from None
  if not rows:
    raise ValueError(f'{path} has a header, but no rows.')
  return Table(header, np.asarray(rows))


def read_edges(path: Path, nodes: int, how: str = '') -> tuple[np.ndarray, np.ndarray]:
  """Two node numbers a line, separated by blanks, tabs or commas; whole numbers written as floats are taken.

  Raises:
    FileNotFoundError: saying how to get the file.
    ValueError: for an odd number of columns, fractions, or numbers outside 0..nodes - 1.
  """
  _exists(path, how)
  with path.open() as file:
    text = file.read().replace(',', ' ')
  lines = text.splitlines()
  widths = {len(line.split()) for line in lines if line.strip()}
  if widths - {2}:
    raise ValueError(f'{path} must have two columns of node numbers, but has lines of {sorted(widths - {2})[0]}.')
  try:
    pairs = np.array(text.split(), np.float64).reshape(-1, 2)
  except ValueError:
    raise ValueError(f'{path} holds something that is no number.') from None
  whole = pairs.astype(np.int64)
  if np.any(whole != pairs):
    raise ValueError(f'{path} holds {pairs[whole != pairs][0]}, which is no node number.')
  if whole.size and (whole.min() < 0 or whole.max() >= nodes):
    wrong = np.flatnonzero((whole < 0).any(axis=1) | (whole >= nodes).any(axis=1))[0]
    raise ValueError(f'{path}, edge {wrong + 1}: {tuple(whole[wrong].tolist())} is outside the nodes 0..{nodes - 1}.')
  return whole[:, 0].astype(np.int32), whole[:, 1].astype(np.int32)


def read_splits(folder: Path, how: str = '') -> Splits:
  """{train,val,test}_split.npy, integers also where they are stored as floats (as DBLP's are)."""
  parts = []
  for name in Splits._fields:
    path = folder / f'{name}_split.npy'
    _exists(path, how)
    parts.append(np.load(path))
  return Splits(*parts)


def read_codes(path: Path, nodes: int, how: str = '') -> np.ndarray:
  """DBLP's labels.txt and sens.txt: lines of node and code -> codes [nodes] int.

  Raises:
    ValueError: for lines that are no pairs, or a node without a code.
  """
  _exists(path, how)
  try:
    pairs = np.loadtxt(path, dtype=np.int64, ndmin=2)
  except ValueError as error:
    raise ValueError(f'{path} must hold lines of a node and its code: {error}.') from None
  if pairs.shape[1] != 2:
    raise ValueError(f'{path} must have two columns, a node and its code, not {pairs.shape[1]}.')
  if pairs[:, 0].min() < 0 or pairs[:, 0].max() >= nodes:
    raise ValueError(f'{path} names node {pairs[:, 0].max()}, but the nodes are 0..{nodes - 1}.')
  codes = np.full(nodes, -1)
  codes[pairs[:, 0]] = pairs[:, 1]
  if (codes < 0).any():
    raise ValueError(f'{path} has no code for node {np.flatnonzero(codes < 0)[0]}.')
  return codes


def read_sparse_features(path: Path, how: str = '') -> np.ndarray:
  """DBLP's X.npz (data, row, col, shape) as a dense float32 array [N, F]."""
  _exists(path, how)
  with np.load(path) as file:
    absent = [key for key in ('data', 'row', 'col', 'shape') if key not in file.files]
    if absent:
      raise ValueError(f'{path} lacks {", ".join(absent)}; it must hold data, row, col and shape.')
    matrix = sparse.coo_array((file['data'], (file['row'], file['col'])), shape=tuple(file['shape']))
  return np.asarray(matrix.todense(), np.float32)


class PreparedCredit(NamedTuple):
  """What the authors' program reads for credit."""

  x: np.ndarray
  senders: np.ndarray
  receivers: np.ndarray
  labels: np.ndarray
  sensitive: np.ndarray


def read_prepared_credit(path: Path) -> PreparedCredit:
  """The authors' npz (adj_*, attr_* CSR parts, labels, sens): largest component, features binarised.

  Raises:
    ValueError: naming an absent entry.
  """
  parts = [f'{name}_{part}' for name in ('adj', 'attr') for part in ('data', 'indices', 'indptr', 'shape')]
  with np.load(path) as file:
    absent = [key for key in (*parts, 'labels', 'sens') if key not in file.files]
    if absent:
      raise ValueError(f'{path} lacks {", ".join(absent)}.')
    adjacency, attributes = (
      sparse.csr_array(
        (file[f'{name}_data'], file[f'{name}_indices'], file[f'{name}_indptr']), shape=tuple(file[f'{name}_shape'])
      )
      for name in ('adj', 'attr')
    )
    labels, sensitive = file['labels'], file['sens']
  _, component = connected_components(adjacency, directed=False)
  kept = np.flatnonzero(component == np.bincount(component).argmax())
  edges = sparse.coo_array(adjacency[kept][:, kept])
  x = (np.asarray(attributes[kept].todense()) != 0).astype(np.float32)
  return PreparedCredit(x, edges.row, edges.col, labels[kept], sensitive[kept])


def csr_edges(indptr: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(row, column) of every entry of a CSR pattern."""
  return np.repeat(np.arange(len(indptr) - 1, dtype=np.int32), np.diff(indptr)), indices.astype(np.int32)


def binary(values: np.ndarray, name: str, role: str) -> np.ndarray:
  """Values as int32, if they are 0 and 1.

  Raises:
    ValueError: naming another value and its row.
  """
  wrong = ~np.isin(values, (0, 1))
  if wrong.any():
    row = int(np.flatnonzero(wrong)[0])
    raise ValueError(f'The {role} {name!r} must be 0 or 1, but row {row} has {values[row]:g}.')
  return values.astype(np.int32)


def normalized(x: np.ndarray, how: str, names: Sequence[str] = ()) -> np.ndarray:
  """Features [N, F] as float32.

  Args:
    x: raw.
    how: 'row_sum' divides each row by its sum, a row of sum 0 becomes zeros (the authors' way for bail); 'binary' makes
      every non-zero value 1 (their way for credit); 'minmax' maps each column to [0, 1]; 'none'.
    names: of the columns, for the message.

  Raises:
    ValueError: for an unknown way or a value that is no number.
  """
  x = np.asarray(x, np.float64)
  if not np.isfinite(x).all():
    row, column = np.argwhere(~np.isfinite(x))[0]
    raise ValueError(f'Feature {names[column] if len(names) else column} of row {row} is no number.')
  if how == 'row_sum':
    sums = x.sum(axis=1, keepdims=True)
    x = np.where(sums == 0.0, 0.0, x / np.where(sums == 0.0, 1.0, sums))
  elif how == 'binary':
    x = x != 0.0
  elif how == 'minmax':
    low, high = x.min(axis=0), x.max(axis=0)
    x = (x - low) / np.where(high > low, high - low, 1.0)
  elif how != 'none':
    raise ValueError(f'normalize={how!r} is not known; it is row_sum, binary, minmax or none.')
  return x.astype(np.float32)


def _exists(path: Path, how: str) -> None:
  if not path.is_file():
    raise FileNotFoundError(f'{path} is missing. {how}'.strip())
