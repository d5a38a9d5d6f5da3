"""Images for distillation: the paper's datasets through TFDS or the original files, and embedded digits."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sklearn.datasets
from PIL import Image

from jaxpapers.data import tfds_source
from jaxpapers.doorping import files
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
  `folder`, or from `$JAXPAPERS_SHARED/data/doorping`. The others read their original files from `folder`, or a folder
  in it that is named as their archive unpacks, where those are found; else TFDS with `folder` as its data_dir.

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
    found = files.find(name, folder) if folder else None
    arrays = files.read(name, found) if found else _from_tfds(name, folder)
    arrays = [resize(x, 32) if x.ndim == 4 else x for x in arrays]
  x_train, y_train, x_test, y_test = arrays
  if keep < 1:
    chosen = np.sort(np.random.default_rng(seed).permutation(len(x_train))[: max(1, int(keep * len(x_train)))])
    x_train, y_train = x_train[chosen], y_train[chosen]
  if name in NORMALISATION:
    mean, std = NORMALISATION[name]
  else:
    mean, std = x_train.mean((0, 1, 2)) / 255.0, x_train.std((0, 1, 2)) / 255.0
  classes = 100 if name == 'cifar100' else 10
  labels = [np.asarray(y, np.int32) for y in (y_train, y_test)]
  scale = [np.asarray(x, np.float32) for x in (mean, std)]
  return check(Images(name, x_train, labels[0], x_test, labels[1], classes, *scale))


def check(images: Images) -> Images:
  """`images` itself, if a distillation can work on it; in a dataset of one's own, pixels may be floats in 0..255.

  Raises:
    UserError: naming what is empty, of a wrong shape, not finite, outside 0..255 or no class.
  """
  for split in ('train', 'test'):
    x, y = getattr(images, f'x_{split}'), getattr(images, f'y_{split}')
    what = f'The {split} set of {images.name}'
    if not len(y):
      raise UserError(f'{what} is empty.')
    if x.ndim != 4 or len(x) != len(y) or x.shape[1:] != images.x_train.shape[1:]:
      want = f'[{len(y)}, height, width, channels]'
      raise UserError(f'{what} has images of shape {x.shape} and {len(y)} labels; it must be {want} in both sets.')
    if x.dtype != np.uint8:
      wrong = ~np.isfinite(x).all((1, 2, 3))
      if wrong.any():
        raise UserError(f'{what} has NaN or infinite pixels in {wrong.sum()} images, first in {np.argmax(wrong)}.')
      if x.min() < 0 or x.max() > 255:
        raise UserError(f'{what} has pixels from {x.min():g} to {x.max():g}; they must lie in 0..255.')
    if y.min() < 0 or y.max() >= images.classes:
      raise UserError(f'{what} has labels from {y.min()} to {y.max()}; there are {images.classes} classes.')
  if not np.isfinite(images.mean).all() or not np.all(np.isfinite(images.std) & (images.std > 0)):
    raise UserError(f'{images.name} cannot be normalised with mean {images.mean} and deviation {images.std}.')
  return images


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
    try:
      source = tfds_source(_TFDS.get(name, name), split, folder or None, keys=('image', 'label'))
    except UserError as error:
      raise UserError(f'{error} Or set config.data.dir to the folder of its files {files.hint(name)}.') from error
    examples = [source[i] for i in range(len(source))]
    arrays += [np.stack([e['image'] for e in examples]), np.asarray([e['label'] for e in examples])]
  return arrays
