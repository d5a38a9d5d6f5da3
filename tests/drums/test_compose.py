"""launch/compose.py with a network that has learnt nothing: the grammar alone makes its takes grooves."""

import json

import jax
import numpy as np
import pytest

from jaxpapers.drums import data, experiment, midi, notation
from jaxpapers.drums.architecture import Architecture
from jaxpapers.drums.experiment import LoadedModel
from jaxpapers.drums.model import Decoder
from jaxpapers.drums.tokenizers import byte_tokenizer
from jaxpapers.engine.errors import UserError
from tests.launch import program


@pytest.fixture(autouse=True)
def model(monkeypatch):
  tokenizer = byte_tokenizer()
  decoder = Decoder(Architecture('gpt2', len(tokenizer.tokens), 1, 16, 2, 2, 32, 464))
  variables = jax.jit(decoder.init)(jax.random.key(0), np.zeros((1, 4), np.int32))
  loaded = LoadedModel(decoder, variables, tokenizer, 4)
  monkeypatch.setattr(experiment, 'load_model', lambda workdir: loaded)


def test_a_groove_in_and_takes_out(tmp_path, capsys):
  groove = data.records(data.bundled())['test'][0]
  settings = {'workdir': 'run', 'prompt': groove.name, 'takes': 2, 'measures': 3, 'temperature': 1.0}
  program.call('compose', **settings, out=str(tmp_path / 'a'))
  listed = capsys.readouterr().out.split()
  assert sorted(listed) == sorted(str(path) for path in (tmp_path / 'a').iterdir()) and len(listed) == 9
  note = json.loads((tmp_path / 'a' / f'{groove.name}.json').read_text())
  assert [take['repaired_lines'] for take in note['takes']] == [0, 0]
  grids = [notation.parse((tmp_path / 'a' / take['text']).read_text(), strict=True).grid for take in note['takes']]
  for grid, take in zip(grids, note['takes'], strict=True):
    assert len(grid) == (2 + 3) * 16
    np.testing.assert_array_equal(grid[:32], groove.grid[:32])
    assert len(midi.read((tmp_path / 'a' / take['midi']).read_bytes()).tick) == grid.sum()
  assert np.any(grids[0] != grids[1])
  program.call('compose', **settings, out=str(tmp_path / 'b'))
  for path in (tmp_path / 'a').iterdir():
    assert path.read_bytes() == (tmp_path / 'b' / path.name).read_bytes()


def test_what_is_missing_or_wrong_is_said(tmp_path):
  known = {'workdir': 'run', 'prompt': '7_100_pop_142_beat_4-4', 'out': str(tmp_path)}
  for words, values in (
    ('No workdir given', known | {'workdir': ''}),
    ('No prompt given', known | {'prompt': ''}),
    ('--top_p lies above 0', known | {'top_p': 1.5}),
    ('No groove of this package is called', known | {'prompt': 'nothing'}),
  ):
    with pytest.raises(UserError, match=words):
      program.call('compose', **values)
