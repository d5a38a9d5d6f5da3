"""The datasets' original files: IDX, pickled batches, MATLAB files, STL-10's binaries."""

import gzip
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.io

from jaxpapers.engine.errors import UserError

Arrays = list[np.ndarray]  # training images and labels, test images and labels


class _Files(NamedTuple):
  """Of one dataset.

  Attributes:
    names: of the files; the first one tells whether a folder holds the dataset.
    inside: folders that its archive unpacks to.
    origin: where it comes from.
    read: folder -> Arrays.
  """

  names: Sequence[str]
  inside: Sequence[str]
  origin: str
  read: Callable[[Path], Arrays]


def hint(name: str) -> str:
  """What the original files of a dataset are called, and where they come from."""
  known = _DATASETS[name]
  return f'{", ".join(known.names)} ({known.origin})'


def find(name: str, folder: str) -> Path | None:
  """`folder`, or a folder in it that the dataset's archive unpacks to, whichever holds the first of its files."""
  for inside in ('', *_DATASETS[name].inside):
    place = Path(folder).expanduser() / inside
    if _packed_or_not(place / _DATASETS[name].names[0]):
      return place
  return None


def read(name: str, folder: Path) -> Arrays:
  """uint8 images [images, height, width, channels] and labels [images] from 0, of the training and the test set.

  Raises:
    UserError: naming the file that is missing, truncated or something else.
  """
  try:
    arrays = _DATASETS[name].read(folder)
  except FileNotFoundError as error:
    raise UserError(f'{error.filename} is missing; {name} consists of {hint(name)}.') from None
  for x, y in (arrays[:2], arrays[2:]):
    if len(x) != len(y):
      raise UserError(
        f'{folder} holds {len(x)} images of {name} for {len(y)} labels: its files do not belong together.'
      )
  return arrays


class _Unreadable:
  """Turns what a parser raises into a UserError that names the file."""

  def __init__(self, path: Path, kind: str):
    self.path, self.kind = path, kind

  def __enter__(self):
    return self

  def __exit__(self, kind, error, traceback):
    if isinstance(error, Exception) and not isinstance(error, FileNotFoundError | UserError):
      text = str(error).strip().split('\n')[0] or type(error).__name__
      raise UserError(f'{self.path} is truncated, damaged or no {self.kind}: {text}.'.replace('..', '.')) from error


def _packed_or_not(path: Path) -> Path | None:
  """`path`, or the same name without `.gz`, whichever exists."""
  return next((p for p in (path, path.with_suffix('')) if path.suffix in ('.gz', p.suffix) and p.is_file()), None)


def _bytes(path: Path) -> bytes:
  found = _packed_or_not(path) or path
  if found.suffix == '.gz':
    with gzip.open(found) as file:
      return file.read()
  return found.read_bytes()


def _idx(path: Path) -> np.ndarray:
  """An IDX file of bytes: its header holds the type, the number of axes and their lengths."""
  with _Unreadable(path, 'IDX file'):
    raw = _bytes(path)
    if raw[:3] != b'\0\0\x08':
      raise ValueError(f'its first bytes are {raw[:4].hex()}')
    shape = np.frombuffer(raw, '>u4', raw[3], 4).astype(int)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def _fashion_mnist(folder: Path) -> Arrays:
  images, labels, *test = (_idx(folder / name) for name in _DATASETS['fashion_mnist'].names)
  return [images[..., None], labels, test[0][..., None], test[1]]


class _ArraysOnly(pickle.Unpickler):
  """Reads the dictionaries of CIFAR's files, and refuses any other code in them."""

  def find_class(self, module: str, name: str):
    if (module.split('.')[0], name) in {('numpy', n) for n in ('_reconstruct', 'ndarray', 'dtype')}:
      return super().find_class(module, name)
    raise pickle.UnpicklingError(f'it asks for {module}.{name}')


def _cifar(folder: Path, names: Sequence[str], label: str) -> Arrays:
  images, labels = [], []
  for name in names:
    with _Unreadable(folder / name, 'CIFAR batch'), (folder / name).open('rb') as file:
      batch = _ArraysOnly(file, encoding='latin1').load()
      planes = np.asarray(batch['data'], np.uint8).reshape(-1, 3, 32, 32)
      images.append(planes.transpose(0, 2, 3, 1))
      labels.append(np.asarray(batch[label], np.int64))
  return [np.ascontiguousarray(np.concatenate(images)), np.concatenate(labels)]


def _cifar10(folder: Path) -> Arrays:
  *train, test = _DATASETS['cifar10'].names
  return [*_cifar(folder, train, 'labels'), *_cifar(folder, [test], 'labels')]


def _cifar100(folder: Path) -> Arrays:
  train, test = _DATASETS['cifar100'].names
  return [*_cifar(folder, [train], 'fine_labels'), *_cifar(folder, [test], 'fine_labels')]


def _svhn(folder: Path) -> Arrays:
  arrays: list[Any] = []
  for name in _DATASETS['svhn'].names:
    if not (folder / name).is_file():
      raise FileNotFoundError(2, 'missing', str(folder / name))
    with _Unreadable(folder / name, 'SVHN file'):
      file = scipy.io.loadmat(folder / name)
      # The last axis counts images; the digit 0 has label 10.
      arrays += [np.ascontiguousarray(file['X'].transpose(3, 0, 1, 2)), file['y'].reshape(-1) % 10]
  return arrays


def _stl10(folder: Path) -> Arrays:
  arrays: list[Any] = []
  for images, labels in (_DATASETS['stl10'].names[:2], _DATASETS['stl10'].names[2:]):
    with _Unreadable(folder / images, 'STL-10 images'):
      # Channel, column, row.
      planes = np.frombuffer(_bytes(folder / images), np.uint8).reshape(-1, 3, 96, 96)
      arrays.append(np.ascontiguousarray(planes.transpose(0, 3, 2, 1)))
    arrays.append(np.frombuffer(_bytes(folder / labels), np.uint8).astype(np.int64) - 1)
  return arrays


_DATASETS = {
  'fashion_mnist': _Files(
    [f'{split}-{kind}-ubyte.gz' for split in ('train', 't10k') for kind in ('images-idx3', 'labels-idx1')],
    ('FashionMNIST/raw', 'data/fashion'),
    'github.com/zalandoresearch/fashion-mnist',
    _fashion_mnist,
  ),
  'cifar10': _Files(
    [*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch'],
    ('cifar-10-batches-py',),
    'the Python version at cs.toronto.edu/~kriz/cifar.html',
    _cifar10,
  ),
  'cifar100': _Files(
    ['train', 'test'], ('cifar-100-python',), 'the Python version at cs.toronto.edu/~kriz/cifar.html', _cifar100
  ),
  'svhn': _Files(['train_32x32.mat', 'test_32x32.mat'], (), 'format 2 at ufldl.stanford.edu/housenumbers', _svhn),
  'stl10': _Files(
    ['train_X.bin', 'train_y.bin', 'test_X.bin', 'test_y.bin'],
    ('stl10_binary',),
    'the binary files at cs.stanford.edu/~acoates/stl10',
    _stl10,
  ),
}
