"""Batches as a pure function of (seed, step), the same for any number of processes.

A training step asks for batch `step`; nothing else is state. A run that resumes asks for the next step, a run on more
hosts asks each host for its rows of the same global batch, and threads or worker processes only change when a batch is
made, never what is in it.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import grain.python as grain
import jax
import numpy as np
from absl import flags

from jaxpapers.engine.errors import UserError

Example = Mapping[str, Any]
Batch = dict[str, np.ndarray]
Augment = Callable[[Any, np.random.Generator], Any]

# Longer than any training run, and short enough for grain's 64-bit bookkeeping.
_FOREVER = 2**48
_EPOCHS_KEPT = 2


class Source(Protocol):
  """Random access: `len(source)` examples, `source[index]` a mapping of arrays and numbers."""

  def __len__(self) -> int:
    """Number of examples."""

  def __getitem__(self, index: int) -> Example:
    """Example `index`."""


@runtime_checkable
class BatchSource(Protocol):
  """A source that can hand out many examples at once, which is much quicker for small ones."""

  def __len__(self) -> int:
    """Number of examples."""

  def gather(self, indices: np.ndarray) -> Batch:
    """The examples `indices` ([batch], int), stacked: {key: [batch, ...]}."""


class Pipeline:
  """This host's share of an endless sequence of training batches; made by `batches`."""

  def __init__(self, make: Callable[[int], Batch], length: int, workers: int, prefetch: int):
    """Wraps `make(step)`; `length` is the number of examples in the source."""
    self._make = make
    self._workers = workers
    self._prefetch = prefetch
    self.num_examples = length

  def __call__(self, step: int) -> Batch:
    """This host's rows of global batch `step`: {key: [local batch, ...]}."""
    return self._make(step)

  def iterate(self, start: int) -> Iterator[Batch]:
    """self(start), self(start + 1), ... made ahead of time by threads or worker processes."""
    return _ahead(self._make, start, _FOREVER, self._workers, self._prefetch)


def batches(
  source: Source,
  *,
  seed: int,
  batch_size: int,
  augment: Augment | None = None,
  batch_augment: Augment | None = None,
  shuffle: bool = True,
  process: int | None = None,
  processes: int | None = None,
  workers: int = 0,
  prefetch: int = 2,
) -> Pipeline:
  """Endless training batches over `source`; every epoch is another permutation, and a batch may straddle two.

  The rows of all processes, put together in order, are bitwise the batch of one process, random numbers included.

  Args:
    source: random access to examples. One that also has `gather` (ArraySource, MemmapSource) is read by whole batches
      unless `augment` needs single examples.
    seed: decides order and augmentation; at least 0.
    batch_size: examples in a GLOBAL batch; each process gets batch_size / processes.
    augment: (example, numpy Generator) -> example, once per example and epoch.
    batch_augment: (batch, numpy Generator) -> batch, for sources with `gather`. It sees the global batch, so that its
      random numbers do not depend on the number of processes; heavy work on many hosts belongs in `augment`.
    shuffle: else the examples come in order, over and over.
    process: this process's index; None asks JAX when the first batch is made.
    processes: how many processes there are; None asks JAX.
    workers: worker processes, for Python-bound work such as decoding; 0 uses threads.
    prefetch: batches made ahead in `iterate` (per worker); 0 makes each when it is asked for.

  Raises:
    UserError: for an empty source, sizes that do not divide, or (from a batch) examples of different shapes.
  """
  length = _check(source, batch_size, workers, prefetch)
  if seed < 0:
    raise UserError(f'The seed of a pipeline must be at least 0, not {seed}.')
  if augment is not None and batch_augment is not None:
    raise UserError('Give a pipeline either `augment` (single examples) or `batch_augment` (whole batches), not both.')
  by_batch = augment is None and isinstance(source, BatchSource)
  if batch_augment is not None and not by_batch:
    raise UserError(f'`batch_augment` needs a source with `gather`; {type(source).__name__} has none: use `augment`.')
  share = _Share(batch_size, process, processes)
  if by_batch:
    make = _GatheredBatches(source, seed, batch_augment, shuffle, share)
  else:
    make = _ExampleBatches(source, seed, augment, shuffle, share)
  return Pipeline(make, length, workers, prefetch)


class EvaluationBatches:
  """Callable that starts one pass over a fixed set; made by `evaluation_batches`. `len` is the batches of a pass."""

  def __init__(self, make: Callable[[int], Batch], count: int, workers: int, prefetch: int):
    """Wraps `make(index)` for index in range(count)."""
    self._make, self._count, self._workers, self._prefetch = make, count, workers, prefetch

  def __len__(self) -> int:
    """Batches in a pass: the same number on every process."""
    return self._count

  def __call__(self) -> Iterator[Batch]:
    """A pass: this host's batches in order."""
    return _ahead(self._make, 0, self._count, self._workers, self._prefetch)


def evaluation_batches(
  source: Source,
  batch_size: int,
  transform: Callable[[Any], Any] | None = None,
  *,
  batch_transform: Callable[[Any], Any] | None = None,
  process: int | None = None,
  processes: int | None = None,
  workers: int = 0,
  prefetch: int = 2,
) -> EvaluationBatches:
  """A pass in which every example counts exactly once, whatever the batch size and the number of processes.

  All batches have one shape. Places that are left over at the end repeat example 0; the leaf `valid` ([local batch],
  bool) is False there, and every process gets the same number of batches.

  Args:
    source: as for `batches`.
    batch_size: examples in a GLOBAL batch.
    transform: example -> example.
    batch_transform: batch -> batch, for sources with `gather`.
    process: as for `batches`.
    processes: as for `batches`.
    workers: as for `batches`.
    prefetch: as for `batches`.

  Returns:
    A callable: each call starts a new pass.
  """
  length = _check(source, batch_size, workers, prefetch)
  by_batch = transform is None and isinstance(source, BatchSource)
  if batch_transform is not None and not by_batch:
    raise UserError('`batch_transform` needs a source with `gather`, and no `transform` beside it.')
  make = _PassBatches(source, length, transform, batch_transform, by_batch, _Share(batch_size, process, processes))
  return EvaluationBatches(make, -(-length // batch_size), workers, prefetch)


class _Share:
  """Which rows of a global batch are this process's. JAX is asked late: it may not be initialised yet."""

  def __init__(self, batch_size: int, process: int | None, processes: int | None):
    self.batch_size, self._process, self._processes = batch_size, process, processes
    if processes is not None:
      self.resolve()

  def resolve(self) -> tuple[int, int, int]:
    """(process, processes, local batch size)."""
    if self._processes is None:
      self._processes = jax.process_count()
    if self._process is None:
      self._process = jax.process_index() if self._processes > 1 else 0
    if self.batch_size % self._processes:
      raise UserError(
        f'The global batch size {self.batch_size} does not divide over {self._processes} processes; '
        f'use a multiple of {self._processes}.'
      )
    if not 0 <= self._process < self._processes:
      raise UserError(f'Process {self._process} is none of the {self._processes} processes (they count from 0).')
    return self._process, self._processes, self.batch_size // self._processes

  def rows(self) -> slice:
    """This process's rows of a global batch."""
    process, _, local = self.resolve()
    return slice(process * local, (process + 1) * local)


class _GatheredBatches:
  """Batch `step` of a source with `gather`: a permutation per epoch, then one gather."""

  def __init__(self, source: BatchSource, seed: int, augment: Augment | None, shuffle: bool, share: _Share):
    self._source, self._seed, self._augment, self._shuffle, self._share = source, seed, augment, shuffle, share
    self._length = len(source)
    self._orders: dict[int, np.ndarray] = {}
    self._lock = threading.Lock()

  def __call__(self, step: int) -> Batch:
    rows = self._share.rows()
    positions = np.arange(self._share.batch_size, dtype=np.int64) + step * self._share.batch_size
    if self._augment is None:
      return dict(self._source.gather(self._indices(positions[rows])))
    rng = np.random.Generator(np.random.Philox(key=[self._seed, step], counter=[0, 0, 0, 1]))
    batch = self._augment(dict(self._source.gather(self._indices(positions))), rng)
    return {key: np.asarray(value)[rows] for key, value in batch.items()}

  def _indices(self, positions: np.ndarray) -> np.ndarray:
    epochs, places = np.divmod(positions, self._length)
    if not self._shuffle:
      return places
    indices = np.empty_like(places)
    for epoch in np.unique(epochs):
      here = epochs == epoch
      indices[here] = self._order(int(epoch))[places[here]]
    return indices

  def _order(self, epoch: int) -> np.ndarray:
    """The permutation of an epoch; the last few are kept, since a permutation costs as much as many batches."""
    with self._lock:
      if epoch not in self._orders:
        rng = np.random.Generator(np.random.Philox(key=[self._seed, epoch]))
        self._orders[epoch] = rng.permutation(np.arange(self._length, dtype=np.uint32))
        while len(self._orders) > _EPOCHS_KEPT:
          del self._orders[next(iter(self._orders))]
      return self._orders[epoch]

  def __getstate__(self) -> dict[str, Any]:
    self._share.resolve()  # a worker process must not ask JAX who it is
    return {**self.__dict__, '_orders': {}, '_lock': None}

  def __setstate__(self, state: dict[str, Any]):
    self.__dict__.update(state)
    self._lock = threading.Lock()


class _ExampleBatches:
  """Batch `step` of a source of single examples, by grain: shuffle, augment, batch, and slice last."""

  def __init__(self, source: Source, seed: int, augment: Augment | None, shuffle: bool, share: _Share):
    dataset = grain.MapDataset.source(source).seed(seed)
    if shuffle:
      dataset = dataset.shuffle()
    dataset = dataset.repeat(None)
    self._dataset = dataset if augment is None else dataset.random_map(augment)
    self._share = share
    self._sliced = None

  def __call__(self, step: int) -> Batch:
    if self._sliced is None:
      process, processes, local = self._share.resolve()
      # Sliced after `batch`: then the processes' shares, put together, are the batch of one process.
      self._sliced = self._dataset.batch(local, drop_remainder=True, batch_fn=stack)[process::processes]
    return self._sliced[step]

  def __getstate__(self) -> dict[str, Any]:
    self._share.resolve()
    return {**self.__dict__, '_sliced': None}


class _PassBatches:
  """Batch `index` of one pass, padded."""

  def __init__(self, source, length, transform, batch_transform, by_batch: bool, share: _Share):
    self._source, self._length, self._share, self._by_batch = source, length, share, by_batch
    self._transform, self._batch_transform = transform, batch_transform

  def __call__(self, index: int) -> Batch:
    positions = (np.arange(self._share.batch_size) + index * self._share.batch_size)[self._share.rows()]
    valid = positions < self._length
    indices = np.where(valid, positions, 0)
    if self._by_batch:
      batch = dict(self._source.gather(indices))
      batch = batch if self._batch_transform is None else dict(self._batch_transform(batch))
    else:
      # Padding is made once: it may be most of the last batch, and an example may be dear.
      made = {int(i): self._example(int(i)) for i in np.unique(indices)}
      batch = stack([made[int(i)] for i in indices])
    if 'valid' in batch:
      raise UserError('The key `valid` marks real examples in evaluation batches; name that key of the data otherwise.')
    return {**batch, 'valid': valid}

  def _example(self, index: int) -> Example:
    example = self._source[index]
    return example if self._transform is None else self._transform(example)

  def __getstate__(self) -> dict[str, Any]:
    self._share.resolve()
    return self.__dict__


def stack(examples: Sequence[Example]) -> Batch:
  """Examples as one batch: {key: [batch, ...]}.

  Raises:
    UserError: naming the key and the shapes, when examples differ in keys or shapes, or hold text.
  """
  for example in examples:
    if not isinstance(example, Mapping):
      raise UserError(
        f'An example must be a mapping of arrays, such as {{"image": ...}}, not a {type(example).__name__}.'
      )
  keys = list(examples[0])
  for example in examples[1:]:
    if set(example) != set(keys):
      raise UserError(f'Examples of one batch have different keys: {sorted(keys)} and {sorted(example)}.')
  batch = {}
  for key in keys:
    values = [np.asarray(example[key]) for example in examples]
    shapes = sorted({value.shape for value in values}, key=str)
    if len(shapes) > 1:
      shown = ', '.join(map(str, shapes[:4])) + (', ...' if len(shapes) > 4 else '')
      raise UserError(
        f'Examples of one batch have different shapes under {key!r}: {shown}; pad, crop or resize them to one shape.'
      )
    batch[key] = np.stack(values)
    if batch[key].dtype.kind in 'OSU':
      kind = type(examples[0][key]).__name__
      raise UserError(f'The key {key!r} holds {kind}, which no device takes; decode or drop it in the transform.')
  return batch


def _check(source: Source, batch_size: int, workers: int, prefetch: int) -> int:
  """The length of the source, once everything is in order."""
  length = len(source)
  if length == 0:
    raise UserError(f'The data source ({type(source).__name__}) is empty.')
  if length > 2**32:
    raise UserError(f'A source may have at most 2**32 examples, not {length}.')
  if batch_size < 1:
    raise UserError(f'The batch size must be at least 1, not {batch_size}.')
  if workers < 0 or prefetch < 0:
    raise UserError(f'workers and prefetch must be at least 0, not {workers} and {prefetch}.')
  return length


def _ahead(make: Callable[[int], Batch], start: int, stop: int, workers: int, prefetch: int) -> Iterator[Batch]:
  """make(start), ..., make(stop - 1), up to `prefetch` batches early."""
  if workers == 0 and prefetch == 0:
    for step in range(start, stop):
      yield make(step)
    return
  dataset = grain.MapDataset.range(start, stop).map(make)
  if workers == 0:
    dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=prefetch, prefetch_buffer_size=prefetch))
  else:
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # grain's workers read absl flags, which a library or a test never parsed
    dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
    dataset = dataset.mp_prefetch(
      grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=max(prefetch, 1))
    )
  iterator = iter(dataset)
  try:
    for batch in iterator:
      # Workers hand over shared memory that they take back; a step may still read it then.
      yield batch if workers == 0 else {key: np.array(value) for key, value in batch.items()}
  finally:
    iterator.close()
