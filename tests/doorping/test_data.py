"""Datasets: tiny files in the original formats and what is said of bad ones, TFDS names, embedded digits."""

import gzip
import os
import pickle

import numpy as np
import pytest
import scipy.io

from jaxpapers.doorping import data
from jaxpapers.engine.errors import UserError

RNG = np.random.default_rng(0)
LABELS = np.arange(10, dtype=np.uint8)


def images(count, size, channels=3):
  return RNG.integers(0, 256, (count, size, size, channels), np.uint8)


def idx(array):
  return b'\0\0\x08' + bytes([array.ndim]) + b''.join(n.to_bytes(4, 'big') for n in array.shape) + array.tobytes()


def fashion_mnist(folder, packed=True):
  written = [images(10, 28, 1), LABELS, images(10, 28, 1), LABELS[::-1]]
  names = [f'{s}-{k}-ubyte' for s in ('train', 't10k') for k in ('images-idx3', 'labels-idx1')]
  for name, array in zip(names, written, strict=True):
    raw = idx(array[..., 0] if array.ndim == 4 else array)
    if packed:
      (folder / f'{name}.gz').write_bytes(gzip.compress(raw))
    else:
      (folder / name).write_bytes(raw)
  return written


def planes(x):
  return x.transpose(0, 3, 1, 2).reshape(len(x), -1)


def cifar10(folder):
  x, y = images(12, 32), np.resize(LABELS, 12)
  for i, name in enumerate([*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch']):
    rows = slice(2 * i, 2 * i + 2)
    batch = {'data': planes(x[rows]), 'labels': y[rows].tolist(), 'filenames': ['a', 'b']}
    (folder / name).write_bytes(pickle.dumps(batch, protocol=3))
  return [x[:10], y[:10], x[10:], y[10:]]


def cifar100(folder):
  folder = folder / 'cifar-100-python'  # as the archive unpacks
  folder.mkdir()
  written = []
  for name in ('train', 'test'):
    x, y = images(3, 32), np.asarray([0, 50, 99])
    batch = {'data': planes(x), 'fine_labels': y.tolist(), 'coarse_labels': [0, 1, 2]}
    (folder / name).write_bytes(pickle.dumps(batch, protocol=3))
    written += [x, y]
  return written


def svhn(folder):
  written = []
  for split in ('train', 'test'):
    x = images(10, 32)
    y = np.where(LABELS == 0, 10, LABELS)[:, None]
    scipy.io.savemat(folder / f'{split}_32x32.mat', {'X': x.transpose(1, 2, 3, 0), 'y': y})
    written += [x, LABELS]
  return written


def stl10(folder):
  written = []
  for split in ('train', 'test'):
    x = images(10, 96)
    (folder / f'{split}_X.bin').write_bytes(x.transpose(0, 3, 2, 1).tobytes())
    (folder / f'{split}_y.bin').write_bytes((LABELS + 1).tobytes())
    written += [x, LABELS]
  return written


WRITERS = {'fashion_mnist': fashion_mnist, 'cifar10': cifar10, 'cifar100': cifar100, 'svhn': svhn, 'stl10': stl10}


@pytest.mark.parametrize('name', WRITERS)
def test_original_files(tmp_path, name):
  written = WRITERS[name](tmp_path)
  got = data.load(name, str(tmp_path))
  want = [data.resize(x, 32) if x.ndim == 4 else x for x in written]
  for mine, x in zip((got.x_train, got.y_train, got.x_test, got.y_test), want, strict=True):
    np.testing.assert_array_equal(mine, x)
  assert got.x_train.shape[1:] == (32, 32, 1 if name == 'fashion_mnist' else 3)
  assert got.classes == (100 if name == 'cifar100' else 10) and got.mean.dtype == np.float32


def test_idx_files_may_be_unpacked(tmp_path):
  written = fashion_mnist(tmp_path, packed=False)
  np.testing.assert_array_equal(data.load('fashion_mnist', str(tmp_path)).y_test, written[3])


class Shell:
  def __reduce__(self):
    return os.system, ('touch never',)


def shorten(path):
  raw = path.read_bytes()
  path.write_bytes(raw[: len(raw) * 3 // 5 - 1])


@pytest.mark.parametrize(
  ('name', 'harm', 'said'),
  [
    ('fashion_mnist', lambda d: (d / 't10k-labels-idx1-ubyte.gz').unlink(), 't10k-labels-idx1-ubyte.gz is missing'),
    ('fashion_mnist', lambda d: shorten(d / 'train-images-idx3-ubyte.gz'), 'train-images-idx3-ubyte.gz is truncated'),
    ('fashion_mnist', lambda d: (d / 't10k-images-idx3-ubyte.gz').write_bytes(gzip.compress(b'hello')), 'no IDX file'),
    ('cifar10', lambda d: (d / 'data_batch_4').unlink(), 'data_batch_4 is missing; cifar10 consists of data_batch_1'),
    ('cifar10', lambda d: (d / 'test_batch').write_bytes(pickle.dumps(Shell())), 'asks for posix.system'),
    ('cifar10', lambda d: (d / 'data_batch_2').write_bytes(pickle.dumps({'a': 1})), 'data_batch_2 is truncated, dam'),
    ('cifar100', lambda d: shorten(d / 'cifar-100-python' / 'test'), 'test is truncated'),
    ('svhn', lambda d: shorten(d / 'test_32x32.mat'), 'test_32x32.mat is truncated'),
    ('svhn', lambda d: (d / 'test_32x32.mat').unlink(), 'test_32x32.mat is missing'),
    ('stl10', lambda d: shorten(d / 'train_X.bin'), 'train_X.bin is truncated'),
    ('stl10', lambda d: (d / 'test_y.bin').write_bytes(b'\1'), '10 images of stl10 for 1 labels'),
    ('stl10', lambda d: (d / 'test_y.bin').write_bytes(bytes([11] * 10)), 'labels from 10 to 10; there are 10'),
  ],
)
def test_bad_files_are_named(monkeypatch, tmp_path, name, harm, said):
  monkeypatch.chdir(tmp_path)
  WRITERS[name](tmp_path)
  harm(tmp_path)
  with pytest.raises(UserError, match=said):
    data.load(name, str(tmp_path))
  assert not (tmp_path / 'never').exists()


@pytest.mark.parametrize(('name', 'called'), [('svhn', 'svhn_cropped'), ('stl10', 'stl10'), ('cifar100', 'cifar100')])
def test_tfds(monkeypatch, name, called):
  asked = []

  def source(*args, **kwargs):
    asked.append(args)
    size = 96 if name == 'stl10' else 32
    return [{'image': np.full((size, size, 3), i, np.uint8), 'label': i} for i in range(4)]

  monkeypatch.setattr(data, 'tfds_source', source)
  got = data.load(name)
  assert asked == [(called, 'train', None), (called, 'test', None)]
  np.testing.assert_array_equal(got.x_test[:, 0, 0, 0], np.arange(4))
  np.testing.assert_array_equal(got.y_train, np.arange(4))
  assert got.x_train.shape == (4, 32, 32, 3)


def test_absent_dataset_says_both_ways_to_get_it(tmp_path):
  with pytest.raises(UserError, match=r'(?s)tfds build.*folder of its files data_batch_1.*cs.toronto.edu'):
    data.load('cifar10', str(tmp_path))


def test_digits_and_a_share_of_them():
  digits = data.load('digits')
  assert digits.x_train.shape == (1297, 16, 16, 1) and len(digits.y_test) == 500
  some = data.load('digits', keep=0.1)
  assert len(some.x_train) == 129 and np.array_equal(some.x_test, digits.x_test)


def changed(**fields):
  return data.load('digits')._replace(**fields)


def test_nan_pixels_are_counted():
  pixels = data.load('digits').x_train.astype(np.float32)
  assert data.check(changed(x_train=pixels)).x_train.dtype == np.float32
  pixels[[7, 9], 3, 3, 0] = np.nan
  with pytest.raises(UserError, match='train set of digits has NaN or infinite pixels in 2 images, first in 7'):
    data.check(changed(x_train=pixels))


@pytest.mark.parametrize(
  ('call', 'said'),
  [
    (lambda: data.load('cifar'), "Unknown dataset 'cifar'. Did you mean 'cifar10'"),
    (lambda: data.load('digits', keep=0.0), 'not 0.0'),
    (lambda: data.load('mnist', '/nowhere'), 'There is no /nowhere/mnist10k.npz'),
    (lambda: data.check(changed(y_test=np.zeros(0, int))), 'test set of digits is empty'),
    (lambda: data.check(changed(x_test=np.zeros((500, 8, 8, 1), np.uint8))), r'shape \(500, 8, 8, 1\)'),
    (lambda: data.check(changed(x_test=np.full((500, 16, 16, 1), 300.0))), 'from 300 to 300'),
    (lambda: data.check(changed(classes=5)), 'labels from 0 to 9; there are 5 classes'),
    (lambda: data.check(changed(std=np.zeros(1))), 'cannot be normalised'),
  ],
)
def test_bad_input_is_named(call, said):
  with pytest.raises(UserError, match=said):
    call()
