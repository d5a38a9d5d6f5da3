"""Images: noisy real digits (embedded), CIFAR-10/100, SVHN and STL-10 from TFDS or their original files, any .npz."""

import os
import pickle
from typing import Any, NamedTuple

import numpy as np
import sklearn.datasets

from jaxpapers import data
from jaxpapers.engine.errors import UserError, suggest

CLASSES = {'digits': 10, 'cifar10': 10, 'cifar100': 100, 'svhn': 10, 'stl10': 10}
SIDES = {'digits': 16, 'cifar10': 32, 'cifar100': 32, 'svhn': 32, 'stl10': 96}
FLIPPED = ('cifar10', 'cifar100', 'stl10')  # a mirrored digit is another digit
TFDS_NAMES = {'svhn': 'svhn_cropped'}
NOISE = 1.2  # largest deviation of the noise on the digits, in units of full scale
_DIGITS = (1000, 350, 447)


class Splits(NamedTuple):
  """Three disjoint sets of {'image': uint8 or float32 [n, side, side, channels], 'label': int32 [n]}.

  Attributes:
    train: networks learn from it.
    calibration: held out of the training images; thresholds and policies are chosen on it.
    test: nothing is chosen on it.
  """

  train: dict[str, np.ndarray]
  calibration: dict[str, np.ndarray]
  test: dict[str, np.ndarray]


def load(name: str, folder: str = '', calibration: int = 5000, seed: int = 0) -> Splits:
  """A dataset by name.

  Args:
    name: 'digits' (embedded), 'cifar10', 'cifar100', 'svhn', 'stl10', or the path of an .npz with `train_image`,
      `train_label`, `test_image`, `test_label`.
    folder: with the original files in it, or a TFDS folder ('' is the usual one).
    calibration: images held out of the training set.
    seed: of the permutation that holds them out.

  Returns:
    The splits; images uint8 except the digits, whose calibration and test images have their noise on and are float32.

  Raises:
    UserError: for an unknown name, missing or damaged files, or too few images.
  """
  if name == 'digits':
    return digits()
  if name.endswith('.npz'):
    train, test = _npz(name)
  elif name not in CLASSES:
    raise UserError(f'Unknown dataset config.data.name={name!r}.{suggest(name, CLASSES)}')
  else:
    train, test = _original(name, folder) or (_tfds(name, 'train', folder), _tfds(name, 'test', folder))
  if not 0 < calibration < len(train['label']):
    raise UserError(f'{calibration} calibration images cannot be held out of {len(train["label"])} training images.')
  order = np.random.default_rng(seed).permutation(len(train['label']))
  return Splits(_rows(train, order[calibration:]), _rows(train, order[:calibration]), test)


def digits() -> Splits:
  """scikit-learn's 1,797 digits, 16x16 pixels, in a fixed split of 1000 / 350 / 447.

  Training images are clean, in [0, 1]: `add_noise` gives them fresh noise in every step. The others carry noise, a
  deviation per image drawn from U(0, 1.2): some are easy, some hard, so that exits spread out.
  """
  loaded = sklearn.datasets.load_digits()
  rng = np.random.default_rng(0)
  order = rng.permutation(len(loaded.target))
  images = np.repeat(np.repeat(loaded.images / 16, 2, axis=1), 2, axis=2)[order, :, :, None].astype(np.float32)
  labels = loaded.target[order].astype(np.int32)
  sigma = rng.uniform(0, NOISE, size=(len(images), 1, 1, 1))
  noisy = (images + sigma * rng.standard_normal(images.shape)).astype(np.float32)
  first, second = np.cumsum(_DIGITS)[:2]
  return Splits(
    {'image': images[:first], 'label': labels[:first]},
    {'image': noisy[first:second], 'label': labels[first:second]},
    {'image': noisy[second:], 'label': labels[second:]},
  )


def scale(images: np.ndarray) -> np.ndarray:
  """Uint8 to float32 (x / 255 - 0.5) / 0.5, the authors' normalisation; float images pass."""
  return images if images.dtype != np.uint8 else images.astype(np.float32) / 127.5 - 1.0


def _rows(arrays: dict[str, np.ndarray], indices: np.ndarray) -> dict[str, np.ndarray]:
  return {key: value[indices] for key, value in arrays.items()}


def _npz(path: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  try:
    with np.load(path, allow_pickle=False) as file:
      found = {key: file[key] for key in file.files}
  except (OSError, ValueError) as error:
    raise UserError(f'{path} cannot be read as an .npz of arrays: {error}.') from error
  missing = [f'{s}_{k}' for s in ('train', 'test') for k in ('image', 'label') if f'{s}_{k}' not in found]
  if missing:
    raise UserError(f'{path} has no {missing[0]!r}; it needs train_image, train_label, test_image, test_label.')
  sets = []
  for split in ('train', 'test'):
    image, label = found[f'{split}_image'], found[f'{split}_label']
    if image.ndim != 4 or label.shape != image.shape[:1]:
      raise UserError(f'{path}: {split} images {image.shape} must be [n, height, width, channels], labels [n].')
    sets.append({'image': image, 'label': label.astype(np.int32)})
  return sets[0], sets[1]


def _tfds(name: str, split: str, folder: str) -> dict[str, np.ndarray]:
  source = data.tfds_source(TFDS_NAMES.get(name, name), split, folder or None, keys=('image', 'label'))
  examples = [source[i] for i in range(len(source))]
  return {
    'image': np.stack([example['image'] for example in examples]),
    'label': np.asarray([example['label'] for example in examples], np.int32),
  }


def _original(name: str, folder: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]] | None:
  """(train, test) from the dataset's own files where `folder` holds them, else None."""
  if not folder:
    return None

  def read(file: str, reader: Any, *args: Any) -> dict[str, np.ndarray]:
    path = os.path.join(folder, file)
    try:
      return reader(path, *args)
    except FileNotFoundError:
      raise UserError(f'{path} is missing; {folder} holds other files of {name}.') from None
    except (OSError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
      raise UserError(f'{path} is no whole file of {name}: {error}.') from error

  def has(file: str) -> bool:
    return os.path.exists(os.path.join(folder, file))

  if name == 'svhn' and has('train_32x32.mat'):
    return read('train_32x32.mat', _svhn), read('test_32x32.mat', _svhn)
  if name == 'stl10' and has('train_X.bin'):
    return read('train', _stl10), read('test', _stl10)
  if name == 'cifar10':
    if has('data_batch_1.bin'):
      parts = [read(f'data_batch_{i}.bin', _cifar_binary, 1) for i in range(1, 6)]
      return _joined(parts), read('test_batch.bin', _cifar_binary, 1)
    if has('data_batch_1'):
      parts = [read(f'data_batch_{i}', _cifar_python, b'labels') for i in range(1, 6)]
      return _joined(parts), read('test_batch', _cifar_python, b'labels')
  if name == 'cifar100':
    if has('train.bin'):
      return read('train.bin', _cifar_binary, 2), read('test.bin', _cifar_binary, 2)
    if has('train'):
      return read('train', _cifar_python, b'fine_labels'), read('test', _cifar_python, b'fine_labels')
  return None


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _cifar_binary(path: str, label_bytes: int) -> dict[str, np.ndarray]:
  """Records of 1 (CIFAR-10) or 2 (coarse, fine) label bytes and 3072 pixels, channels first."""
  raw = np.fromfile(path, np.uint8)
  size = label_bytes + 3072
  if not raw.size or raw.size % size:
    raise ValueError(f'{raw.size} bytes are no whole number of records of {size}')
  rows = raw.reshape(-1, size)
  return {'image': _channels_last(rows[:, label_bytes:], 32), 'label': rows[:, label_bytes - 1].astype(np.int32)}


class _ArraysOnly(pickle.Unpickler):
  """Reads the pickles of CIFAR's Python version: containers and NumPy arrays, no other class is ever looked up."""

  ALLOWED = frozenset({'_reconstruct', 'ndarray', 'dtype', 'encode'})

  def find_class(self, module: str, name: str) -> Any:
    """NumPy's array constructors and the codec of Python 2 strings.

    Raises:
      pickle.UnpicklingError: for anything else.
    """
    if name not in self.ALLOWED or module.split('.')[0] not in ('numpy', '_codecs'):
      raise pickle.UnpicklingError(f'it asks for {module}.{name}, which no file of arrays needs')
    return super().find_class(module, name)


def _cifar_python(path: str, key: bytes) -> dict[str, np.ndarray]:
  with open(path, 'rb') as file:
    found = _ArraysOnly(file, encoding='bytes').load()
  return {'image': _channels_last(found[b'data'], 32), 'label': np.asarray(found[key], np.int32)}


def _svhn(path: str) -> dict[str, np.ndarray]:
  """`X` [32, 32, 3, n] and `y`, in which 10 is the digit 0."""
  import scipy.io

  found = scipy.io.loadmat(path, variable_names=['X', 'y'])
  return {'image': found['X'].transpose(3, 0, 1, 2).copy(), 'label': (found['y'].ravel() % 10).astype(np.int32)}


def _stl10(stem: str) -> dict[str, np.ndarray]:
  """`<split>_X.bin`, 3x96x96 with columns before rows, and `<split>_y.bin`, labels 1..10."""
  raw = np.fromfile(f'{stem}_X.bin', np.uint8)
  if not raw.size or raw.size % (3 * 96 * 96):
    raise ValueError(f'{raw.size} bytes are no whole number of images of 3x96x96')
  images = raw.reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1).copy()
  return {'image': images, 'label': np.fromfile(f'{stem}_y.bin', np.uint8).astype(np.int32) - 1}


def _channels_last(rows: np.ndarray, side: int) -> np.ndarray:
  return np.asarray(rows).reshape(-1, 3, side, side).transpose(0, 2, 3, 1).copy()
