"""Images for distillation: the paper's datasets through TFDS or the original files, and embedded digits (section 5)."""

import gzip
import os
import pickle
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.io
import sklearn.datasets
from PIL import Image

from jaxpapers.data import tfds_source
from jaxpapers.engine.errors import UserError, suggest

DIGITS_SIZE, DIGITS_TRAIN = 16, 1297
_CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
# Mean and standard deviation per channel of pixels in [0, 1], as the DC program has them.
NORMALISATION = {
  'cifar10': _CIFAR10,
  'stl10': _CIFAR10,
  'cifar100': ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
  'svhn': ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
  'fashion_mnist': ((0.2861,), (0.3530,)),
}
_TFDS = {'svhn': 'svhn_cropped'}
DATASETS = ('digits', 'mnist', *NORMALISATION)


class Images(NamedTuple):
  """A dataset in memory.

  Attributes:
    name: of the dataset.
    x_train: uint8 [images, height, width, channels].
    y_train: int32 [images].
    x_test: uint8.
    y_test: int32.
    classes: number of classes.
    mean: float32 [channels], of pixels in [0, 1].
    std: float32 [channels].
  """

  name: str
  x_train: np.ndarray
  y_train: np.ndarray
  x_test: np.ndarray
  y_test: np.ndarray
  classes: int
  mean: np.ndarray
  std: np.ndarray


def resize(images: np.ndarray, size: int) -> np.ndarray:
  """uint8 [batch, height, width, channels] -> [batch, size, size, channels], Pillow's bilinear with antialiasing."""
  if images.shape[1:3] == (size, size):
    return images
  out = np.empty((len(images), size, size, images.shape[3]), np.uint8)
  for image, target in zip(images, out, strict=True):
    grey = image.shape[-1] == 1
    picture = Image.fromarray(image[..., 0] if grey else image).resize((size, size), Image.Resampling.BILINEAR)
    target[...] = np.asarray(picture).reshape(target.shape)
  return out


def load(name: str, folder: str = '', keep: float = 1.0, seed: int = 0) -> Images:
  """The dataset called `name`.

  'digits' (inside scikit-learn: real handwritten digits, 16 x 16) needs no folder. 'mnist' reads `mnist10k.npz` from
  `folder`, or from `$JAXPAPERS_SHARED/data/doorping`. The others read their original files from `folder` where those
  are found, else TFDS with `folder` as its data_dir.

  Args:
    name: one of DATASETS.
    folder: see above.
    keep: share of the training set, drawn at random, that is used.
    seed: of that draw.

  Raises:
    UserError: for an unknown name, a missing or damaged file, a share outside (0, 1].
  """
  if name not in DATASETS:
    raise UserError(f'Unknown dataset {name!r}.{suggest(name, DATASETS)}')
  if not 0 < keep <= 1:
    raise UserError(f'The share of the training set must lie in (0, 1], not {keep}.')
  if name == 'digits':
    arrays = _digits()
  elif name == 'mnist':
    arrays = _mnist(folder)
  else:
    found = Path(folder or '.').expanduser() / _FILES[name][0]
    arrays = _READERS[name](Path(folder).expanduser()) if folder and found.exists() else _from_tfds(name, folder)
    arrays = [resize(x, 32) if x.ndim == 4 else x for x in arrays]
  x_train, y_train, x_test, y_test = arrays
  if keep < 1:
    chosen = np.sort(np.random.default_rng(seed).permutation(len(x_train))[: max(1, int(keep * len(x_train)))])
    x_train, y_train = x_train[chosen], y_train[chosen]
  if not len(y_test):
    raise UserError(f'{name} has an empty test set.')
  if name in NORMALISATION:
    mean, std = NORMALISATION[name]
  else:
    mean, std = x_train.mean((0, 1, 2)) / 255.0, x_train.std((0, 1, 2)) / 255.0
  classes = 100 if name == 'cifar100' else 10
  return Images(
    name,
    x_train,
    y_train.astype(np.int32),
    x_test,
    y_test.astype(np.int32),
    classes,
    np.asarray(mean, np.float32),
    np.asarray(std, np.float32),
  )


def _digits() -> list[np.ndarray]:
  loaded = sklearn.datasets.load_digits()
  pixels = np.round(loaded.images * 255.0 / 16.0).astype(np.uint8)[..., None]
  images = resize(pixels, DIGITS_SIZE)
  order = np.random.RandomState(0).permutation(len(images))
  train, test = order[:DIGITS_TRAIN], order[DIGITS_TRAIN:]
  return [images[train], loaded.target[train], images[test], loaded.target[test]]


def _mnist(folder: str) -> list[np.ndarray]:
  path = Path(folder or Path(os.environ.get('JAXPAPERS_SHARED', '../shared')) / 'data/doorping') / 'mnist10k.npz'
  try:
    with np.load(path) as file:
      return [file[k][..., None] if k[0] == 'x' else file[k] for k in ('x_train', 'y_train', 'x_test', 'y_test')]
  except FileNotFoundError:
    raise UserError(f'There is no {path}: set config.data.dir to the folder of mnist10k.npz.') from None
  except (OSError, ValueError, KeyError, EOFError) as error:
    raise UserError(f'{path} is damaged or holds something else: {error}.') from error


def _from_tfds(name: str, folder: str) -> list[np.ndarray]:
  arrays = []
  for split in ('train', 'test'):
    source = tfds_source(_TFDS.get(name, name), split, folder or None, keys=('image', 'label'))
    examples = [source[i] for i in range(len(source))]
    arrays += [np.stack([e['image'] for e in examples]), np.asarray([e['label'] for e in examples])]
  return arrays


def _read(path: Path, shape: tuple[int, ...], skip: int) -> np.ndarray:
  """uint8 [rows, *shape] of a file, gzipped or not, after `skip` bytes."""
  try:
    if path.suffix == '.gz':
      with gzip.open(path) as file:
        raw = file.read()
    else:
      raw = path.read_bytes()
    return np.frombuffer(raw, np.uint8, offset=skip).reshape(-1, *shape)
  except FileNotFoundError:
    raise UserError(f'{path} is missing.') from None
  except (OSError, EOFError, ValueError) as error:
    raise UserError(f'{path} is truncated or damaged: {error}.') from error


def _idx(folder: Path) -> list[np.ndarray]:
  """FashionMNIST's IDX files."""
  arrays = []
  for stem in ('train', 't10k'):
    arrays.append(_read(folder / f'{stem}-images-idx3-ubyte.gz', (28, 28, 1), 16))
    arrays.append(_read(folder / f'{stem}-labels-idx1-ubyte.gz', (), 8))
  return arrays


class _ArraysOnly(pickle.Unpickler):
  """Reads the dictionaries of CIFAR's files, and refuses any other code in them."""

  def find_class(self, module: str, name: str):
    if (module.split('.')[0], name) in {('numpy', n) for n in ('_reconstruct', 'ndarray', 'dtype')}:
      return super().find_class(module, name)
    raise pickle.UnpicklingError(f'it asks for {module}.{name}')


def _cifar(folder: Path, names: list[str], label: str) -> tuple[np.ndarray, np.ndarray]:
  images, labels = [], []
  for name in names:
    path = folder / name
    try:
      with path.open('rb') as file:
        batch = _ArraysOnly(file, encoding='latin1').load()
      images.append(np.asarray(batch['data'], np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
      labels.append(np.asarray(batch[label]))
    except FileNotFoundError:
      raise UserError(f'{path} is missing.') from None
    except Exception as error:
      raise UserError(f'{path} is truncated, damaged or no CIFAR batch: {error}.') from error
  return np.concatenate(images), np.concatenate(labels)


def _cifar10(folder: Path) -> list[np.ndarray]:
  train = _cifar(folder, [f'data_batch_{i}' for i in range(1, 6)], 'labels')
  return [*train, *_cifar(folder, ['test_batch'], 'labels')]


def _cifar100(folder: Path) -> list[np.ndarray]:
  return [*_cifar(folder, ['train'], 'fine_labels'), *_cifar(folder, ['test'], 'fine_labels')]


def _svhn(folder: Path) -> list[np.ndarray]:
  arrays = []
  for split in ('train', 'test'):
    path = folder / f'{split}_32x32.mat'
    try:
      file = scipy.io.loadmat(path)
      arrays += [np.ascontiguousarray(file['X'].transpose(3, 0, 1, 2)), file['y'].reshape(-1) % 10]
    except FileNotFoundError:
      raise UserError(f'{path} is missing.') from None
    except Exception as error:
      raise UserError(f'{path} is truncated, damaged or no SVHN file: {error}.') from error
  return arrays


def _stl10(folder: Path) -> list[np.ndarray]:
  arrays = []
  for split in ('train', 'test'):
    # Columns come first in the file.
    arrays.append(_read(folder / f'{split}_X.bin', (3, 96, 96), 0).transpose(0, 3, 2, 1))
    arrays.append(_read(folder / f'{split}_y.bin', (), 0).astype(np.int32) - 1)
  return arrays


_READERS = {'fashion_mnist': _idx, 'cifar10': _cifar10, 'cifar100': _cifar100, 'svhn': _svhn, 'stl10': _stl10}
_FILES = {
  'fashion_mnist': ('train-images-idx3-ubyte.gz',),
  'cifar10': ('data_batch_1',),
  'cifar100': ('train',),
  'svhn': ('train_32x32.mat',),
  'stl10': ('train_X.bin',),
}
