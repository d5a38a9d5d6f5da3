"""The comparison with spconv: equal results where it is installed, one clear sentence where it is not."""

import sys

import numpy as np
import pytest

from jaxpapers.cmt import peers
from jaxpapers.engine.errors import UserError


def test_a_missing_library_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'spconv', None)
  with pytest.raises(UserError, match='needs PyTorch and spconv'):
    peers.PEERS['spconv'](None, repeats=1, threads=1)


def test_the_cloud_is_denser_near_the_sensor():
  cloud = peers.scattered_cloud(2000)
  assert cloud.shape == (2000, 5) and cloud.dtype == np.float32
  distance = np.linalg.norm(cloud[:, :2], axis=1)
  assert np.mean(distance < 22) > 0.6 and distance.max() > 44
  assert np.all((cloud[:, 2] >= -5) & (cloud[:, 2] < 3))


def test_both_libraries_do_the_same_work():
  pytest.importorskip('spconv')
  rows = peers.spconv_encoder(None, repeats=1, threads=1, points=300)
  assert [row.name for row in rows] == ['spconv sparse encoder, 1 thread', 'sparse encoder']
