"""The test variant end to end in a process; data readers; frozen settings."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxpapers.engine.errors import UserError
from jaxpapers.predictive_exit import data

ROOT = Path(__file__).parents[2]


def test_variant_trains_and_reports(tmp_path):
  command = [sys.executable, 'launch/train.py', '--config=configs/predictive_exit.py:test', f'--workdir={tmp_path}/run']
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
  process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
  assert process.returncode == 0, process.stderr
  results = json.loads((tmp_path / 'run/report/results.json').read_text())
  assert set(results['claims']) == {'true', 'head = 0.05 layer', 'head = 0.25 layer'}
  assert all(len(v) == 2 for v in results['claims']['true'].values())
  assert len(results['final']['exits']) == 14
  for name in ('exits', 'forecasts', 'pareto'):
    assert (tmp_path / f'run/report/{name}.png').stat().st_size > 5000


def test_digits_are_split_once_and_noisy_where_they_are_judged():
  splits = data.digits()
  assert [len(s['label']) for s in splits] == [1000, 350, 447]
  assert splits.train['image'].min() == 0 and splits.train['image'].max() == 1
  assert splits.test['image'].min() < -0.5
  np.testing.assert_array_equal(splits.test['image'], data.digits().test['image'])


def test_original_files(tmp_path):
  rng = np.random.default_rng(0)
  pixels = rng.integers(256, size=(3, 3, 32, 32), dtype=np.uint8)
  records = np.concatenate([np.asarray([[1], [9], [4]], np.uint8), pixels.reshape(3, -1)], 1)
  for i in range(1, 6):
    records.tofile(tmp_path / f'data_batch_{i}.bin')
  records.tofile(tmp_path / 'test_batch.bin')
  splits = data.load('cifar10', str(tmp_path), calibration=5)
  assert len(splits.train['label']) == 10 and len(splits.calibration['label']) == 5
  np.testing.assert_array_equal(splits.test['image'], pixels.transpose(0, 2, 3, 1))
  np.testing.assert_array_equal(splits.test['label'], [1, 9, 4])
  records[:, :-1].tofile(tmp_path / 'test_batch.bin')
  with pytest.raises(UserError, match='test_batch.bin is no whole file of cifar10'):
    data.load('cifar10', str(tmp_path), calibration=5)


def test_python_files_are_read_without_running_them(tmp_path):
  found = {b'data': np.zeros((4, 3072), np.uint8), b'fine_labels': [0, 1, 2, 99]}
  for name in ('train', 'test'):
    (tmp_path / name).write_bytes(pickle.dumps(found))
  splits = data.load('cifar100', str(tmp_path), calibration=1)
  assert splits.test['label'][3] == 99
  (tmp_path / 'train').write_bytes(pickle.dumps(os.getcwd))
  with pytest.raises(UserError, match='getcwd'):
    data.load('cifar100', str(tmp_path), calibration=1)


def test_svhn_and_stl10_layouts(tmp_path):
  import scipy.io

  rng = np.random.default_rng(0)
  images = rng.integers(256, size=(2, 32, 32, 3), dtype=np.uint8)
  for split in ('train', 'test'):
    path = tmp_path / f'{split}_32x32.mat'
    scipy.io.savemat(path, {'X': images.transpose(1, 2, 3, 0), 'y': np.asarray([[10], [3]])})
    tall = np.zeros((2, 96, 96, 3), np.uint8)
    tall[:, 5, 7] = 200
    tall.transpose(0, 3, 2, 1).tofile(tmp_path / f'{split}_X.bin')
    np.asarray([1, 10], np.uint8).tofile(tmp_path / f'{split}_y.bin')
  svhn = data.load('svhn', str(tmp_path), calibration=1)
  np.testing.assert_array_equal(svhn.test['image'], images)
  np.testing.assert_array_equal(svhn.test['label'], [0, 3])
  stl = data.load('stl10', str(tmp_path), calibration=1)
  np.testing.assert_array_equal(stl.test['image'], tall)
  np.testing.assert_array_equal(stl.test['label'], [0, 9])


def test_bad_data_is_named(tmp_path):
  with pytest.raises(UserError, match='cifar10'):
    data.load('cifar11')
  np.savez(tmp_path / 'x.npz', train_image=np.zeros((2, 8, 8, 1)))
  with pytest.raises(UserError, match='train_label'):
    data.load(str(tmp_path / 'x.npz'))
