"""The names that the room gives."""

import importlib

import numpy as np
import pytest

from jaxpapers import drums


def test_every_name_of_the_room_exists():
  for name in drums.__all__:
    value = getattr(drums, name)
    assert callable(value) and value.__doc__, name
  with pytest.raises(AttributeError, match='no_such_name'):
    drums.no_such_name  # noqa: B018


def test_the_example_of_the_docstring(tmp_path):
  groove = drums.bundled()[0]
  assert drums.to_text(groove.grid[:32]).count('\n') == 32
  (tmp_path / 'groove.mid').write_bytes(drums.write_midi(groove.grid, bpm=groove.bpm))
  file = drums.read_midi((tmp_path / 'groove.mid').read_bytes())
  assert len(file.tick) == groove.grid.sum()
  assert len(drums.stability(groove.grid)) == 14


def test_peers_do_the_same_work():
  peers = importlib.import_module('jaxpapers.drums.peers')
  grid = drums.bundled()[0].grid[:80]
  np.testing.assert_array_equal(peers.encode_by_event(drums.write_midi(grid), track=1)[:80], grid)
  rows = peers.event_by_event(None, repeats=1, threads=0, grooves=1)
  assert [row.name for row in rows] == ['encode MIDI by event', 'stability by pair']
  assert all(row.examples == 1 and row.seconds > 0 for row in rows)
