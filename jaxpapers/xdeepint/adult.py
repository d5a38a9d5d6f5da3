"""Adult (census income), the data of the default run: a compact derivative lies in this package.

`adult.npz` was made by `pack` from a CSV of the 48,842-row edition with the columns below. `adult.ATTRIBUTION.txt`
names source, licence (CC BY 4.0) and changes.

    python -m jaxpapers.xdeepint.adult CSV_FILE adult.npz
"""

import csv
import gzip
import importlib.resources
import json
import sys
from collections import Counter
from typing import NamedTuple

import numpy as np

from jaxpapers.xdeepint.columns import Column, Encoding, make_encoding
from jaxpapers.xdeepint.embeddings import Fields
from jaxpapers.xdeepint.shard_files import SPLITS
from jaxpapers.xdeepint.transforms import log_square_bin

BINNED = ('fnlwgt', 'capital_gain', 'capital_loss')
COLUMNS = (
  *('age', 'fnlwgt', 'educational_num', 'capital_gain', 'capital_loss', 'hours_per_week', 'workclass', 'education'),
  *('marital_status', 'occupation', 'relationship', 'race', 'gender', 'native_country'),
)


class Adult(NamedTuple):
  """Encoded rows.

  Attributes:
    fields: names and sizes.
    splits: {'train', 'valid', 'test'}: {'ids' [rows, 14] int32, 'label' [rows] float32}.
    encodings: of every field, for further records (`RecordEncoder`).
  """

  fields: Fields
  splits: dict[str, dict[str, np.ndarray]]
  encodings: list[Encoding]


def load(threshold: int = 20) -> Adult:
  """The bundled rows: age, educational_num and hours_per_week by value, three columns by log-square bin.

  Args:
    threshold: a level is kept if its count in the training rows is larger.
  """
  with importlib.resources.files(__package__).joinpath('adult.npz').open('rb') as file, np.load(file) as data:
    codes, split, levels = data['codes'], data['split'], json.loads(str(data['levels']))
    labels = np.unpackbits(data['label'], count=len(split)).astype(np.float32)
  train, ids, encodings = split == 0, [], []
  for name, code, texts in zip(COLUMNS, codes, levels, strict=True):
    if name in BINNED:
      encodings.append(Encoding(Column(name, 'log_square')))
      ids.append(np.asarray([int(text) for text in texts], np.int32)[code])
      continue
    texts = [text.encode() for text in texts]
    counts = Counter(texts[i] for i in code[train])
    encodings.append(make_encoding(Column(name), counts, threshold))
    ids.append(encodings[-1](texts)[code])
  ids = np.stack(ids, axis=1)
  splits = {name: {'ids': ids[split == i], 'label': labels[split == i]} for i, name in enumerate(SPLITS)}
  return Adult(Fields(COLUMNS, tuple(e.size for e in encodings)), splits, encodings)


def pack(csv_file: str, output: str) -> None:
  """Writes the derivative: per column codes of the rows and their levels; three columns as log-square bins."""
  with gzip.open(csv_file, 'rt', newline='') as file:
    rows = list(csv.DictReader(file))
  codes, levels = [], []
  for name in COLUMNS:
    texts = [row[name] for row in rows]
    if name in BINNED:
      texts = [str(value) for value in log_square_bin(np.asarray(texts, np.float32))]
    order = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    codes.append(np.asarray([order[text] for text in texts], np.uint8))
    levels.append(list(order))
  np.savez_compressed(
    output,
    codes=np.stack(codes),
    label=np.packbits(np.asarray([row['label'] == '1' for row in rows])),
    split=np.asarray([int(row['split']) for row in rows], np.uint8),
    levels=np.asarray(json.dumps(levels)),
  )


if __name__ == '__main__':
  pack(*sys.argv[1:3])
