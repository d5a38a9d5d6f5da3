"""Memory-mapped shards of ids and labels, and the batches that are read from them."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxpapers.engine.errors import UserError
from jaxpapers.xdeepint.columns import Column, Encoding
from jaxpapers.xdeepint.embeddings import Fields, check_ids, check_labels
from jaxpapers.xdeepint.shard_files import FORMAT_VERSION, META, shard_lengths, shard_path


def read_meta(folder: str | os.PathLike, source: str = '') -> dict[str, Any]:
  """`meta.json` of a prepared folder.

  Args:
    folder: written by `prepare`.
    source: where the raw files come from, for the message.

  Raises:
    UserError: if the folder or the file is missing or of another version.
  """
  path = Path(folder) / META
  how = 'make it with python -m jaxpapers.xdeepint.prepare' + (f' from {source}' if source else '')
  if not os.fspath(folder) or not Path(folder).is_dir():
    raise UserError(f'There is no prepared data folder {os.fspath(folder)!r} (config.data.dir); {how}.')
  try:
    meta = json.loads(path.read_text())
  except FileNotFoundError:
    raise UserError(f'{path} is missing: the folder was not prepared, or not to the end; {how}.') from None
  except ValueError as error:
    raise UserError(f'{path} is no JSON ({error}); {how}.') from error
  if meta.get('format_version') != FORMAT_VERSION:
    raise UserError(f'{path} has format version {meta.get("format_version")}, not {FORMAT_VERSION}; {how}.')
  return meta


def fields_of(meta: Mapping[str, Any]) -> Fields:
  """The fields of a prepared folder."""
  return Fields(tuple(f['name'] for f in meta['fields']), tuple(f['size'] for f in meta['fields']))


def encodings_of(folder: str | os.PathLike) -> list[Encoding]:
  """The encodings of a prepared folder, to encode further records with (see `RecordEncoder`)."""
  out = []
  for field in read_meta(folder)['fields']:
    column = Column(field['name'], field['kind'], field['missing'])
    levels = []
    if column.kind == 'categorical':
      text = (Path(folder) / 'vocab' / f'{column.name}.txt').read_bytes()
      levels = text.split(b'\n')[:-1]
    out.append(Encoding(column, levels, field.get('edges', ())))
  return out


class ShardSource:
  """The rows of one split of a prepared folder, read from disk as they are needed: {'ids' int32, 'label' float32}."""

  def __init__(self, folder: str | os.PathLike, split: str, source: str = ''):
    """Maps the shards and compares their number and lengths with `meta.json`.

    Raises:
      UserError: for a missing folder, an empty split, a missing, truncated or altered shard.
    """
    self.folder, self.split, self.source = Path(folder), split, source
    meta = read_meta(folder, source)
    self.fields = fields_of(meta)
    rows = meta['rows'].get(split, 0)
    if not rows:
      raise UserError(f'The split {split!r} of {folder} is empty; it has {meta["rows"]}.')
    lengths = shard_lengths(rows, meta['rows_per_shard'])
    found = len(list((self.folder / split).glob('ids-*.npy')))
    if found != len(lengths):
      raise UserError(f'{self.folder / split} holds {found} shards, but {META} says {len(lengths)}.')
    self._ids, self._labels = [], []
    for index, length in enumerate(lengths):
      self._ids.append(self._open('ids', index, (length, len(self.fields)), np.int32))
      self._labels.append(self._open('labels', index, (length,), np.uint8))
    self._starts = np.concatenate([[0], np.cumsum(lengths)])

  def _open(self, what: str, index: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    path = shard_path(self.folder, self.split, what, index)
    try:
      array = np.load(path, mmap_mode='r', allow_pickle=False)
    except FileNotFoundError:
      raise UserError(f'{path} is missing, but {META} lists it.') from None
    except (ValueError, EOFError, OSError) as error:
      raise UserError(f'{path} is truncated or damaged ({path.stat().st_size:,} bytes): {error}.') from error
    if array.shape != shape or array.dtype != dtype:
      raise UserError(f'{path} holds {array.dtype} {array.shape}, but {META} says {np.dtype(dtype)} {shape}.')
    return array

  def __len__(self) -> int:
    """Number of rows."""
    return int(self._starts[-1])

  def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Rows `indices` [batch]: {'ids' [batch, F] int32, 'label' [batch] float32}, checked.

    Raises:
      UserError: for an id or label that cannot be, naming folder, field and value.
    """
    ids = np.empty((len(indices), len(self.fields)), np.int32)
    labels = np.empty(len(indices), np.float32)
    shard = np.searchsorted(self._starts, indices, side='right') - 1
    for index in np.unique(shard):
      here = shard == index
      local = indices[here] - self._starts[index]
      ids[here], labels[here] = self._ids[index][local], self._labels[index][local]
    try:
      check_ids(ids, self.fields, f'{self.folder / self.split}, a batch')
      check_labels(labels, f'{self.folder / self.split}, a batch')
    except ValueError as error:
      raise UserError(f'{error} Prepare the data again.') from error
    return {'ids': ids, 'label': labels}

  def __getstate__(self) -> dict[str, Any]:
    """The folder alone: a worker process maps the files itself."""
    return {'folder': self.folder, 'split': self.split, 'source': self.source}

  def __setstate__(self, state: dict[str, Any]):
    """Maps the files again."""
    self.__init__(**state)


class EpochBatches:
  """Batches of whole epochs as a function of the step; the last batch of an epoch is filled up with weight 0.

  The order of an epoch is a permutation of blocks and a permutation inside each block, both functions of (seed, epoch):
  disk reads stay within two blocks, and a restart needs the step alone. With the summed loss the padding is exact.
  """

  def __init__(
    self,
    source: Any,
    batch_size: int,
    seed: int,
    *,
    shuffle: bool = True,
    block: int = 1 << 16,
    process: int | None = None,
    processes: int | None = None,
  ):
    """Batches of `source` (with `gather`), `batch_size` over all processes.

    Raises:
      UserError: for an empty source or sizes that do not divide.
    """
    self._source, self._size, self._seed, self._shuffle, self._block = source, batch_size, seed, shuffle, block
    self._process = jax.process_index() if process is None else process
    self._processes = jax.process_count() if processes is None else processes
    if not len(source):
      raise UserError('The training data is empty.')
    if batch_size < 1 or batch_size % self._processes:
      raise UserError(f'batch_size={batch_size} must be a positive multiple of the {self._processes} processes.')
    self.per_epoch = -(-len(source) // batch_size)
    self._cache: dict[tuple[int, int], np.ndarray] = {}

  def __call__(self, step: int) -> dict[str, np.ndarray]:
    """This process's rows of batch `step`: {'ids', 'label', 'weight'}, leading axis batch_size / processes."""
    epoch, index = divmod(step, self.per_epoch)
    local = self._size // self._processes
    positions = index * self._size + self._process * local + np.arange(local)
    valid = positions < len(self._source)
    rows = self._rows(epoch, np.where(valid, positions, 0))
    return {**self._source.gather(rows), 'weight': valid.astype(np.float32)}

  def _rows(self, epoch: int, positions: np.ndarray) -> np.ndarray:
    """Rows of the source at `positions` of an epoch's order."""
    if not self._shuffle:
      return positions
    blocks, ends = self._blocks(epoch)
    which = np.searchsorted(ends, positions, side='right')
    rows = np.empty(len(positions), np.int64)
    for place in np.unique(which):
      here = which == place
      start = ends[place - 1] if place else 0
      rows[here] = blocks[place] * self._block + self._inside(epoch, int(blocks[place]))[positions[here] - start]
    return rows

  def _blocks(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Order of the blocks, and where each ends in the epoch's order."""
    count = -(-len(self._source) // self._block)
    blocks = self._generator(epoch, 0).permutation(count)
    lengths = np.minimum(self._block, len(self._source) - blocks * self._block)
    return blocks, np.cumsum(lengths)

  def _inside(self, epoch: int, block: int) -> np.ndarray:
    """The permutation inside a block; the last few are kept."""
    key = (epoch, block)
    order = self._cache.get(key)
    if order is None:
      length = min(self._block, len(self._source) - block * self._block)
      order = self._generator(epoch, 1 + block).permutation(length)
      if len(self._cache) >= 8:
        self._cache.clear()
      self._cache[key] = order
    return order

  def _generator(self, epoch: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[self._seed, epoch], counter=[0, 0, 0, stream]))


class StackedBatches:
  """Several sequences of batches side by side, on axis 1 of every leaf: one per replica of a training."""

  def __init__(self, parts: Iterable[EpochBatches]):
    """The sequences, all of one batch size."""
    self._parts = list(parts)
    self.per_epoch = self._parts[0].per_epoch

  def __call__(self, step: int) -> dict[str, np.ndarray]:
    """{key: [batch, parts, ...]}."""
    batches = [part(step) for part in self._parts]
    return {key: np.stack([batch[key] for batch in batches], axis=1) for key in batches[0]}
