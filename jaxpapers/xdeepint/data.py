"""The datasets: Adult from this package, prepared folders of click logs, and planted parity."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxpapers.data import ArraySource
from jaxpapers.engine.errors import UserError
from jaxpapers.xdeepint import adult, formats
from jaxpapers.xdeepint.embeddings import Fields, check_ids, check_labels
from jaxpapers.xdeepint.shards import ShardSource, read_meta

PAGES = {
  'criteo': formats.CRITEO_PAGE,
  'avazu': formats.AVAZU_PAGE,
  'ipinyou': formats.IPINYOU_PAGE,
  'movielens100k': formats.MOVIELENS_PAGE,
  'csv': 'a CSV file of yours',
}
DATASETS = ('adult', 'parity', *PAGES)


class Data(NamedTuple):
  """Sources of {'ids' [F] int32, 'label' float32} rows, with `gather`.

  Attributes:
    fields: names and sizes.
    splits: {'train', 'test' and mostly 'valid'}.
  """

  fields: Fields
  splits: Mapping[str, Any]


def load(dataset: str, folder: str = '') -> Data:
  """A dataset by name; all but 'adult' read a folder that `prepare` wrote.

  Raises:
    UserError: for an unknown name, a folder that is missing, of another dataset, or damaged.
  """
  if dataset == 'criteo_uplift':
    raise UserError("'criteo_uplift' (the `criteo` of TFDS) is another set, with other columns; use dataset 'criteo'.")
  if dataset == 'adult':
    loaded = adult.load()
    return from_arrays(loaded.fields, loaded.splits)
  if dataset not in PAGES:
    raise UserError(f'config.data.dataset={dataset!r} is not known; known: {", ".join(DATASETS)}.')
  meta = read_meta(folder, PAGES[dataset])
  if meta['dataset'] != dataset:
    raise UserError(f'{folder} holds the dataset {meta["dataset"]!r}, not {dataset!r}.')
  splits = {name: ShardSource(folder, name, PAGES[dataset]) for name, rows in meta['rows'].items() if rows}
  for name in ('train', 'test'):
    if name not in splits:
      raise UserError(f'The split {name!r} of {folder} is empty; prepare the data with another --split.')
  return Data(splits['train'].fields, splits)


def from_arrays(fields: Fields, splits: Mapping[str, Mapping[str, np.ndarray]]) -> Data:
  """Data in memory, checked.

  Args:
    fields: names and sizes.
    splits: {'train', ...}: {'ids' [rows, F] integers, 'label' [rows] of 0 and 1}.

  Raises:
    ValueError: for an empty split, or an id or label that cannot be.
  """
  for name, arrays in splits.items():
    if not len(arrays['ids']):
      raise ValueError(f'The split {name!r} is empty.')
    check_ids(arrays['ids'], fields, name)
    check_labels(arrays['label'], name)
  return Data(fields, {name: ArraySource(arrays) for name, arrays in splits.items()})


class Parity(NamedTuple):
  """Planted parity: see `planted_parity`.

  Attributes:
    fields: names and sizes.
    splits: {'train', 'valid', 'test'}: sources of {'ids' [F] int32, 'label' [orders] float32}.
    bayes: (AUC, LogLoss) of the true probabilities on the test rows, averaged over the orders.
  """

  fields: Fields
  splits: Mapping[str, ArraySource]
  bayes: tuple[float, float]


def planted_parity(
  seed: int,
  orders: tuple[int, ...] = (1, 2, 3, 4),
  *,
  fields: int = 5,
  levels: int = 4,
  rows: int = 30_000,
  strength: float = 3.0,
) -> Parity:
  """Labels that depend on a product of p random signs, for every order p at once, on the same records.

  Every field maps its equiprobable levels to balanced signs; m is the product over the first p fields and y is
  Bernoulli(sigmoid(strength * m)). A logit that is a sum of functions of fewer than p fields each cannot do better than
  ln 2: its gain E[m g] vanishes by independence and balance.

  Args:
    seed: of everything.
    orders: p, each at most `fields`.
    fields: F.
    levels: of each field, an even number.
    rows: in all; 60 % train, 10 % validate, 30 % test.
    strength: of the planted logit.

  Raises:
    ValueError: for odd levels or an order above the number of fields.
  """
  if levels % 2 or not orders or not 1 <= min(orders) <= max(orders) <= fields:
    raise ValueError(f'Parity needs even levels and orders in 1..{fields}, not levels={levels} and orders={orders}.')
  rng = np.random.default_rng([seed, 5])
  ids = rng.integers(0, levels, (rows, fields), dtype=np.int32)
  signs = np.stack([rng.permutation(np.repeat([-1.0, 1.0], levels // 2)) for _ in range(fields)])
  logits = np.stack([strength * np.prod(signs[np.arange(p), ids[:, :p]], axis=1) for p in orders], axis=1)
  labels = (rng.random(logits.shape) < 1.0 / (1.0 + np.exp(-logits))).astype(np.float32)
  cuts = (int(0.6 * rows), int(0.7 * rows))
  parts = zip(('train', 'valid', 'test'), np.split(np.arange(rows), cuts), strict=True)
  splits = {name: ArraySource({'ids': ids[part], 'label': labels[part]}) for name, part in parts}
  return Parity(Fields(tuple(f'x{i}' for i in range(fields)), (levels,) * fields), splits, _bayes(strength))


def _bayes(strength: float) -> tuple[float, float]:
  """AUC and LogLoss of the true probabilities: the score takes two values, one for each sign, equally often."""
  p = 1.0 / (1.0 + np.exp(-strength))
  return float(p), float(-(p * np.log(p) + (1.0 - p) * np.log1p(-p)))
