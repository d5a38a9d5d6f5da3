"""Triggers as files: what a picture can hold, the raw numbers, and the sentence about the difference."""

import numpy as np
import pytest
from PIL import Image

from jaxpapers.doorping import export, trigger
from jaxpapers.engine.errors import UserError

SHAPE = (6, 6, 3)
MEAN, STD = np.asarray([0.4, 0.5, 0.6], np.float32), np.asarray([0.2, 0.25, 0.3], np.float32)
MASK = trigger.patch_mask(SHAPE, 2)
INSIDE = trigger.random_trigger(SHAPE, 2, MEAN, STD, 0)


def test_a_trigger_in_range_comes_back_as_it_is(tmp_path):
  said = export.export_trigger(tmp_path, 'door', INSIDE, MASK, MEAN, STD)
  assert 'lies inside the pixel range' in said
  pixels = np.asarray(Image.open(tmp_path / 'door_trigger.png'))
  again = trigger.normalise(pixels.astype(np.float32), MEAN, STD)
  np.testing.assert_allclose(again, INSIDE[0], atol=1e-5)
  saved = export.read_trigger(tmp_path / 'door_trigger.npz')
  np.testing.assert_array_equal(saved.trigger, INSIDE[0])
  np.testing.assert_array_equal(saved.mask, MASK)


def test_a_trigger_out_of_range_is_clipped_in_the_picture_alone(tmp_path, capsys):
  raw = np.where(MASK > 0, INSIDE, INSIDE)
  raw[0, 3, 3, 0], raw[0, 4, 4, 2] = 1000.0, -50.0
  folder = tmp_path / 'run' / 'report'
  folder.mkdir(parents=True)
  said = export.export_trigger(folder, 'door', raw, MASK, MEAN, STD)
  # Channel 0 ends at 3: 997 units, where the narrowest channel spans 1 / 0.3.
  assert '17% of its values lie outside' in said and 'by up to 997 units, 299.1 times' in said
  pixels = np.asarray(Image.open(folder / 'door_trigger.png'))
  assert pixels[3, 3, 0] == 255 and pixels[4, 4, 2] == 0 and not pixels[MASK == 0].any()
  np.testing.assert_array_equal(export.read_trigger(folder / 'door_trigger.npz').trigger, raw[0])
  assert export.main([str(tmp_path / 'run'), '--output', str(tmp_path / 'out'), '--scale', '4']) == 0
  assert capsys.readouterr().out.strip() == said
  assert Image.open(tmp_path / 'out' / 'door_trigger.png').size == (24, 24)


def test_bad_input_is_named(tmp_path, capsys):
  with pytest.raises(UserError, match=r'trigger \(6, 6, 3\), mask \(6, 6, 1\)'):
    export.export_trigger(tmp_path, 'door', INSIDE, MASK[..., :1], MEAN, STD)
  with pytest.raises(UserError, match='NaN'):
    export.export_trigger(tmp_path, 'door', INSIDE * np.nan, MASK, MEAN, STD)
  assert export.main([str(tmp_path)]) == 2
  assert 'has no report with triggers' in capsys.readouterr().err
  (tmp_path / 'report').mkdir()
  (tmp_path / 'report' / 'door_trigger.npz').write_bytes(b'no')
  assert export.main([str(tmp_path)]) == 2
  assert 'door_trigger.npz is damaged' in capsys.readouterr().err
