"""The synthesiser and the pictures: what they show is what the grid says."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.io import wavfile

from jaxpapers.drums import figures, notation, structure, synth


@pytest.fixture(autouse=True)
def close_figures():
  yield
  plt.close('all')


@pytest.mark.parametrize('column', range(6))
def test_every_instrument_sounds_at_its_step_and_dies_away(column):
  grid = np.zeros((16, 6), bool)
  grid[8, column] = True
  samples = synth.render(grid, bpm=150)
  onset = round(8 * 0.1 * synth.RATE)
  assert np.abs(samples[:onset]).max() < 1e-6 < 0.05 < np.abs(samples[onset : onset + 200]).max()
  assert np.abs(samples[-20:]).max() < 0.01 and np.all(np.abs(samples) < 1)
  stroke = synth.kit()[notation.INSTRUMENTS[column]]
  np.testing.assert_allclose(samples[onset : onset + len(stroke)], np.tanh(stroke * (100 / 127) ** 2), atol=1e-5)


def test_instruments_differ_in_pitch():
  def centre(sound):
    power = np.abs(np.fft.rfft(sound)) ** 2
    return np.sum(power * np.fft.rfftfreq(len(sound), 1 / synth.RATE)) / power.sum()

  pitch = {name: centre(sound) for name, sound in synth.kit().items()}
  assert pitch['kick'] < pitch['tom'] < pitch['snare'] < pitch['hi-hat']
  assert 1000 < pitch['ride'] and 1000 < pitch['crash'] and len(synth.kit()['crash']) > len(synth.kit()['hi-hat'])


def test_rendering_is_reproducible_and_bounded():
  grid = np.random.default_rng(0).random((64, 6)) < 0.7
  first = synth.render(grid, 93.0)
  synth.kit.cache_clear()
  np.testing.assert_array_equal(first, synth.render(grid, 93.0))
  assert first.dtype == np.float32 and np.abs(first).max() < 1
  soft = synth.render(grid, 93.0, velocity=np.full((64, 6), 20))
  assert np.abs(soft).max() < 0.2 * np.abs(first).max()
  assert not synth.render(np.zeros((16, 6), bool)).any()
  assert len(synth.render(np.zeros((0, 6), bool))) > 0
  assert len(synth.render(grid, 93.0, rate=8000)) == pytest.approx(len(first) * 8000 / 22050, rel=1e-3)
  with pytest.raises(ValueError, match='tempo'):
    synth.render(grid, 0)
  with pytest.raises(ValueError, match='8000'):
    synth.render(grid, rate=100)


def test_wav_files_hold_the_samples():
  samples = np.array([0.0, 0.5, -1.0, 1.0, 3.0], np.float32)
  rate, read = wavfile.read(io.BytesIO(synth.wav(samples, 12000)))
  assert rate == 12000 and read.tolist() == [0, 16384, -32767, 32767, 32767]


def test_piano_roll_has_a_mark_for_every_hit():
  grid = np.random.default_rng(1).random((48, 6)) < 0.3
  figure = figures.piano_roll({'human': grid, 'model': ~grid})
  for axis, shown in zip(figure.axes, (grid, ~grid), strict=True):
    marks = axis.collections[0].get_offsets()
    assert sorted((x - 0.5, y) for x, y in marks) == sorted(map(tuple, np.argwhere(shown).astype(float).tolist()))
    assert [t.get_text() for t in axis.get_yticklabels()] == list(notation.INSTRUMENTS)
  assert [axis.get_title(loc='left') for axis in figure.axes] == ['human', 'model']


def test_curves_and_bars_show_the_numbers():
  curves = {
    'a': [np.array([1, 2, 3]), np.array([3, 4]), np.array([8, 9])],
    'none': [np.zeros(0)],
    'high': [np.array([60])],
  }
  axis = figures.stability_curves(curves).axes[0]
  assert axis.lines[0].get_ydata().tolist() == [4, 5, 3] and axis.lines[0].get_xdata().tolist() == [2, 3, 4]
  assert len(axis.lines) == 2 and axis.get_ylim()[1] >= 60
  axis = figures.duplicates({'train': {'ada': {0: 3, 2: 1}}}).axes[0]
  assert [bar.get_height() for bar in axis.patches] == [0.75, 0, 0.25]
  axis = figures.learning_curves({'scratch': ([0, 5], [3.0, 2.0])}, {'copy mixture': 0.974}).axes[0]
  assert axis.lines[1].get_ydata()[0] == 0.974 and 'copy mixture 0.974' in axis.lines[1].get_label()
  axis = figures.against_grooves({'scratch': {32: [2.0, 3.0], 8: [4.0]}}, {}).axes[0]
  assert axis.lines[0].get_xydata().tolist() == [[8, 4], [32, 2.5]]


def test_self_distances_waveform_and_text():
  grid = np.random.default_rng(2).random((64, 6)) < 0.3
  figure = figures.self_distance({'x': grid, 'y': grid[:48]})
  np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), structure.self_distances(grid))
  assert len(figure.axes) == 3
  samples = np.sin(np.arange(50000) / 50)
  axis = figures.waveform(samples, 10000, beats=np.array([0.0, 1.0])).axes[0]
  assert len(axis.lines) == 2 and axis.get_xlim()[1] == pytest.approx(5, abs=0.01)
  texts = [text.get_text() for text in figures.text_and_roll(grid, 'x').axes[0].texts]
  assert '\n'.join(texts).split() == notation.to_text(grid).split()
