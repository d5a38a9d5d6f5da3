"""Prompts out of files, continuations into files."""

import io
import json

import mido
import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from jaxpapers.drums import data, encoding, midi, notation, takes
from jaxpapers.engine.errors import UserError


@pytest.fixture
def grid():
  grid = np.random.default_rng(0).random((64, 6)) < 0.3
  grid[::16, 3] = True
  return grid


def test_prompts_of_all_three_kinds(grid, tmp_path):
  path = tmp_path / 'mine.mid'
  path.write_bytes(midi.write(np.concatenate([np.zeros((16, 6), bool), grid]), bpm=96))
  prompt = takes.read_prompt(str(path))
  assert prompt.name == 'mine' and prompt.bpm == pytest.approx(96, abs=0.01) and prompt.remarks == ()
  np.testing.assert_array_equal(prompt.grid, grid[:32])
  text = tmp_path / 'mine.txt'
  text.write_text(notation.to_text(grid).replace('\n', 'x\n', 1))
  read = takes.read_prompt(str(text), 3)
  np.testing.assert_array_equal(read.grid, grid[:48])
  assert len(read.remarks) == 1 and 'line 1' in read.remarks[0]
  groove = data.records(data.bundled())['test'][0]
  bundled = takes.read_prompt(groove.name)
  np.testing.assert_array_equal(bundled.grid, groove.grid[:32])
  assert bundled.bpm == groove.bpm


def test_a_measure_that_stops_early_is_filled_with_rests(tmp_path):
  path = tmp_path / 'short.txt'
  path.write_text('---o--\n' * 20)
  assert takes.read_prompt(str(path)).grid.sum(axis=1).tolist() == [1] * 20 + [0] * 12


def test_what_is_left_out_is_said(tmp_path):
  events = [(0, 36), (0, 35), (0, 44), (10, 36), (1920, 38), (10, 99)]
  track = mido.MidiTrack(mido.Message('note_on', channel=9, note=n, velocity=80, time=t) for t, n in events)
  output = io.BytesIO()
  mido.MidiFile(type=0, ticks_per_beat=480, tracks=[track]).save(file=output)
  path = tmp_path / 'odd.mid'
  path.write_bytes(output.getvalue())
  prompt = takes.read_prompt(str(path))
  assert prompt.bpm == 120 and prompt.grid.sum() == 2
  said = ' '.join(prompt.remarks)
  for words in ('1 hits of pedal hi-hat', '1 hits of pitch 35', '1 hits of pitch 99', '1 hits fell on a place'):
    assert words in said


def test_prompts_that_cannot_be_continued(grid, tmp_path):
  def says(words, source, content=None, measures=2):
    path = tmp_path / source
    if content is not None:
      path.write_bytes(content)
      source = str(path)
    with pytest.raises(UserError, match=words):
      takes.read_prompt(source, measures)

  says('has 1 measures that sound; the prompt needs 2', 'a.mid', midi.write(grid[:16]))
  says('cannot be read: not a standard MIDI file', 'b.mid', b'x')
  says('cannot be read: No such file', 'missing.mid')
  says('is in 3/4', 'c.mid', midi.write(grid, numerator=3))
  says('has no drum that the notation knows; it read 0 notes', 'd.mid', midi.write(grid * False))
  says('has no hit', 'e.txt', b'')
  says('is no text', 'f.txt', b'\xff')
  says('at least 1 measure', 'g.mid', midi.write(grid), 0)
  says("called '7_100_pop_142'.*Did you mean '7_100_pop_142_beat_4-4'", '7_100_pop_142')
  says('is in 3/4', '1_1_latin-chacarera_157_beat_3-4')


def test_takes_become_files_that_agree(grid, tmp_path):
  prompt = takes.Prompt('beat', grid[:32], 110.0, ('one thing',))
  _, completion = notation.prompt_completion(grid)
  several = [takes.read_take(prompt.grid, completion), takes.read_take(prompt.grid, 'ooo\n' * 16 + '\nEND')]
  np.testing.assert_array_equal(several[0].grid, grid)
  assert [take.repaired for take in several] == [0, 17]
  written = takes.write_takes(tmp_path / 'out', prompt, several, seed=3)
  assert sorted(path.name for path in written) == sorted(
    ['beat.json', *(f'beat-{n}{suffix}' for n in (1, 2) for suffix in ('.mid', '.png', '.txt', '.wav'))]
  )
  assert all(path.stat().st_size for path in written)
  note = json.loads((tmp_path / 'out' / 'beat.json').read_text())
  assert (note['bpm'], note['seed'], note['remarks']) == (110.0, 3, ['one thing'])
  for entry, take in zip(note['takes'], several, strict=True):
    steps = len(take.grid)
    content = (tmp_path / 'out' / entry['midi']).read_bytes()
    np.testing.assert_array_equal(encoding.encode(content).grid[:steps], take.grid)
    assert (
      notation.parse((tmp_path / 'out' / entry['text']).read_text(), strict=True).grid.tolist() == take.grid.tolist()
    )
    rate, samples = wavfile.read(tmp_path / 'out' / entry['wav'])
    assert len(samples) / rate > steps * 15 / 110 and np.abs(samples).max() > 3000
    assert Image.open(tmp_path / 'out' / entry['picture']).width > 800
    assert (entry['repaired_lines'], entry['measures']) == (take.repaired, steps / 16)
  faster = takes.write_takes(tmp_path / 'fast', prompt, several[:1], bpm=200.0)
  assert midi.read(next(p for p in faster if p.suffix == '.mid').read_bytes()).tempos == ((0, 0, 300000),)
  blocked = tmp_path / 'file'
  blocked.write_text('')
  with pytest.raises(UserError, match='cannot be written to'):
    takes.write_takes(blocked / 'x', prompt, several)
