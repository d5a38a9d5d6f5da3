"""Keyframes through TFDS's records, without TensorFlow."""

import sys

import numpy as np
import pytest

from jaxpapers.cmt import data, nuscenes
from jaxpapers.engine.errors import UserError
from tests.cmt import nuscenes_set

tfds_builder = pytest.importorskip('jaxpapers.cmt.tfds_builder')


def test_records_hold_what_the_reader_gives(tmp_path):
  dataset = nuscenes.NuScenes(nuscenes_set.write(tmp_path / 'set'))
  with pytest.raises(UserError, match='nuscenes_frames/mini'):
    tfds_builder.PreparedSource('mini_val', tmp_path / 'tfds', dataset.version)
  command = [str(tmp_path / 'tfds'), '--root', str(dataset.root), '--version']
  assert tfds_builder.main([*command, dataset.version]) == 0
  assert tfds_builder.main([*command, 'v1.0-test']) == 2
  prepared = tfds_builder.PreparedSource('mini_val', tmp_path / 'tfds', dataset.version)
  read = data.NuScenesSource(dataset, dataset.tokens('mini_val'))
  assert len(prepared) == len(read) == 3
  wanted = {example['token']: example for example in map(read.__getitem__, range(3))}
  for place in range(3):
    example = prepared[place]
    frame = dataset.frame(example['token'])
    np.testing.assert_array_equal(example.pop('ego2global'), frame.ego2global)
    np.testing.assert_array_equal(example.pop('lidar2ego'), frame.lidar2ego)
    for name, value in {**wanted[example['token']], 'index': place}.items():
      np.testing.assert_array_equal(example.pop(name), value)
    assert not example
  assert 'tensorflow' not in sys.modules
