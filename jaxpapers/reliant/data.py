"""The data sets by name: embedded block model, bail, credit, DBLP, and a user's own table with edges."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxpapers.reliant import formats
from jaxpapers.reliant.blockmodel import block_model
from jaxpapers.reliant.graph import symmetric_edges
from jaxpapers.reliant.problem import Splits
from jaxpapers.reliant.similarity import similarity_edges
from jaxpapers.reliant.splits import split_by_class

HOW = (
  'Its files come from github.com/yushundong/RELIANT; name their folder with --config.data.dir, or the folder of the '
  're-packed {name}.npz, or set JAXPAPERS_SHARED.'
)


class Dataset(NamedTuple):
  """One attributed graph.

  Attributes:
    name: of the data set.
    x: [N, F] float32, normalised.
    senders: [E], both directions and self-loops.
    receivers: [E].
    labels: [N], 0 or 1.
    sensitive: [N], 0 or 1.
    splits: node indices.
    features: names of the columns of x.
    note: what a reader of the numbers should know, or ''.
  """

  name: str
  x: np.ndarray
  senders: np.ndarray
  receivers: np.ndarray
  labels: np.ndarray
  sensitive: np.ndarray
  splits: Splits
  features: tuple[str, ...]
  note: str = ''


class TableRule(NamedTuple):
  """How a table becomes a data set: columns by role, normalisation, edge threshold, split."""

  label: str
  sensitive: str
  excluded: tuple[str, ...]
  normalize: str
  threshold: float
  split: dict


RULES = {
  'bail': TableRule('RECID', 'WHITE', (), 'row_sum', 0.6, {'train': 0.3, 'val': 0.2}),
  'credit': TableRule(
    'NoDefaultNextMonth', 'Age', ('Single',), 'minmax', 0.7, {'train': 0.0, 'val': 0.25, 'train_per_class': 500}
  ),
}
NAMES = ('blockmodel', 'bail', 'credit', 'dblp', 'dblp_l', 'csv')


def load(name: str, folder: str = '', seed: int = 0) -> Dataset:
  """The data set called `name`.

  Args:
    name: of `NAMES` without 'csv', which `load_csv` reads.
    folder: where its files lie; '' looks in $JAXPAPERS_SHARED/data/reliant.
    seed: of the block model.

  Raises:
    FileNotFoundError: naming the missing file and how to get it.
    ValueError: for an unknown name or files that are not what they should be.
  """
  if name == 'blockmodel':
    names = tuple(f'x{i}' for i in range(16))
    return Dataset(name, *block_model(seed), names)
  if name not in NAMES or name == 'csv':
    raise ValueError(f'Data set {name!r} is not known; known: {", ".join(NAMES)}.')
  shared = os.environ.get('JAXPAPERS_SHARED', '')
  where = Path(folder) if folder else Path(shared, 'data', 'reliant') if shared else Path('.')
  return _dblp(name, where) if name.startswith('dblp') else _table(name, where)


def _table(name: str, folder: Path) -> Dataset:
  how, rule = HOW.format(name=name), RULES[name]
  packed = folder / f'{name}.npz'
  if packed.is_file():
    with np.load(packed) as file:
      if name == 'credit' and 'adj_data' in file.files:
        return _prepared_credit(packed, rule)
      table = formats.Table(tuple(map(str, file['columns'])), file['table'].astype(np.float64))
      first, second = formats.csr_edges(file['indptr'], file['indices'])
      splits = Splits(*(file[f'idx_{part}'] for part in Splits._fields))
    return from_table(name, table, (first, second), splits, rule)
  table = formats.read_table(folder / f'{name}.csv', how)
  edges_file = folder / f'{name}_edges.txt'
  edges = formats.read_edges(edges_file, len(table.values), how) if edges_file.is_file() else None
  splits = formats.read_splits(folder / 'split', how) if (folder / 'split').is_dir() else None
  return from_table(name, table, edges, splits, rule)


def from_table(
  name: str,
  table: formats.Table,
  edges: tuple[np.ndarray, np.ndarray] | None,
  splits: Splits | None,
  rule: TableRule,
) -> Dataset:
  """A data set from a table; edges from similar rows and splits by class where None is given.

  Raises:
    ValueError: for an absent column, or labels or groups that are not binary.
  """
  labels = formats.binary(table.column(rule.label, 'label'), rule.label, 'label')
  sensitive = formats.binary(table.column(rule.sensitive, 'sensitive'), rule.sensitive, 'sensitive attribute')
  columns = tuple(c for c in table.columns if c != rule.label and c not in rule.excluded)
  raw = np.stack([table.column(c, 'feature') for c in columns], axis=1)
  x = formats.normalized(raw, rule.normalize, columns)
  if edges is None:
    edges = similarity_edges(raw, rule.threshold)
  senders, receivers = symmetric_edges(*edges, len(x))
  splits = split_by_class(labels, **rule.split) if splits is None else splits
  return Dataset(name, x, senders, receivers, labels, sensitive, splits, columns)


def _prepared_credit(path: Path, rule: TableRule) -> Dataset:
  got = formats.read_prepared_credit(path)
  labels = formats.binary(got.labels, 'labels', 'label')
  sensitive = formats.binary(got.sensitive, 'sens', 'sensitive attribute')
  senders, receivers = symmetric_edges(got.senders, got.receivers, len(got.x))
  names = tuple(f'x{i}' for i in range(got.x.shape[1]))
  splits = split_by_class(labels, **rule.split)
  return Dataset('credit', got.x, senders, receivers, labels, sensitive, splits, names)


def _dblp(name: str, folder: Path) -> Dataset:
  size = {'dblp': 'small', 'dblp_l': 'medium'}[name]
  how, packed = HOW.format(name=f'dblp_{size}'), folder / f'dblp_{size}.npz'
  if packed.is_file():
    with np.load(packed) as file:
      field, continent = file['field'].astype(int), file['continent'].astype(int)
      first, second = file['edges'].astype(np.int32).T
      splits = Splits(*(file[f'idx_{part}'] for part in Splits._fields))
    senders, receivers = symmetric_edges(first, second, len(field))
    x, names = structural_features(senders, receivers, len(field))
    note = 'The bag-of-words features are not at hand: structural features take their place, so numbers differ.'
  else:
    x = formats.read_sparse_features(folder / 'X.npz', how)
    field, continent = (formats.read_codes(folder / f'{what}.txt', len(x), how) for what in ('labels', 'sens'))
    senders, receivers = symmetric_edges(*formats.read_edges(folder / 'edgelist.txt', len(x), how), len(x))
    splits = formats.read_splits(folder / 'split', how)
    names, note = tuple(f'word{i}' for i in range(x.shape[1])), ''
  labels, sensitive = (field == 3).astype(np.int32), (continent == 2).astype(np.int32)
  return Dataset(name, x, senders, receivers, labels, sensitive, splits, names, note)


def structural_features(senders: np.ndarray, receivers: np.ndarray, nodes: int) -> tuple[np.ndarray, tuple[str, ...]]:
  """Features for a graph without any: log degree, mean log degree of neighbours, no neighbour, and a constant.

  Self-loops are in the list and not counted.
  """
  others = senders != receivers
  degree = np.bincount(receivers[others], minlength=nodes)
  log_degree = np.log1p(degree)
  total = np.bincount(receivers[others], weights=log_degree[senders[others]], minlength=nodes)
  x = np.stack([log_degree, total / np.maximum(degree, 1), degree == 0, np.ones(nodes)], axis=1)
  return x.astype(np.float32), ('log_degree', 'neighbours_log_degree', 'isolated', 'one')


def load_csv(
  table: str,
  edges: str,
  label: str,
  sensitive: str,
  *,
  normalize: str = 'minmax',
  threshold: float = 0.7,
  train: float = 0.5,
  val: float = 0.25,
  seed: int = 20,
) -> Dataset:
  """A user's own CSV with a label and a sensitive column, and an edge list ('' builds edges from similar rows).

  Raises:
    FileNotFoundError, ValueError: for a missing file, or what is wrong in one.
  """
  if not label or not sensitive:
    raise ValueError('A table of your own needs the names of its label and of its sensitive column.')
  read = formats.read_table(Path(table), 'Name your CSV file with --config.data.table.')
  how = 'Name your edge list with --config.data.edges.'
  pairs = formats.read_edges(Path(edges), len(read.values), how) if edges else None
  rule = TableRule(label, sensitive, (), normalize, threshold, {'train': train, 'val': val, 'seed': seed})
  return from_table(Path(table).stem, read, pairs, None, rule)
