"""A drum machine in NumPy: decaying sines for kick and tom, noise with a tone for the snare, filtered noise else."""

import functools
import io

import chex
import numpy as np
from scipy import signal
from scipy.io import wavfile

from jaxpapers.drums.notation import INSTRUMENTS

RATE = 22050
_LEVELS = {'crash': 0.5, 'ride': 0.35, 'snare': 0.8, 'kick': 1.0, 'hi-hat': 0.35, 'tom': 0.8}
_SEED = 20


def render(grid: np.ndarray, bpm: float = 120.0, rate: int = RATE, velocity: int | np.ndarray = 100) -> np.ndarray:
  """[samples] float32 in -1..1: the grid played once, and the last sounds dying away. The same grid sounds the same.

  Args:
    grid: [steps, 6] bool, sixteenth notes.
    bpm: quarter notes a minute.
    rate: samples a second, at least 8000.
    velocity: 0..127, one number or [steps, 6]; loudness goes with its square.

  Raises:
    ValueError: for a tempo or a rate outside its range.
  """
  grid = np.asarray(grid, bool)
  chex.assert_shape(grid, (None, len(INSTRUMENTS)))
  if not 4 <= bpm <= 1000:
    raise ValueError(f'The tempo lies in 4..1000 quarter notes a minute, not {bpm}.')
  if rate < 8000:
    raise ValueError(f'At least 8000 samples a second are needed, not {rate}.')
  sounds = kit(rate)
  start = np.round(np.arange(len(grid)) * (15.0 / bpm) * rate).astype(np.int64)
  end = round(len(grid) * (15.0 / bpm) * rate)
  loudness = grid * (np.broadcast_to(velocity, grid.shape) / 127.0) ** 2
  output = np.zeros(end + max(len(sound) for sound in sounds.values()))
  for column, name in enumerate(INSTRUMENTS):
    if grid[:, column].any():
      strokes = np.zeros(max(end, 1))
      strokes[start] = loudness[:, column]
      played = signal.oaconvolve(strokes, sounds[name])
      output[: len(played)] += played
  # Several drums at once would leave -1..1: bend, do not clip.
  return np.tanh(output).astype(np.float32)


def wav(samples: np.ndarray, rate: int = RATE) -> bytes:
  """A WAV file of 16-bit numbers from [samples] or [samples, channels] in -1..1; louder ones are clipped."""
  output = io.BytesIO()
  wavfile.write(output, rate, np.round(np.clip(samples, -1.0, 1.0) * 32767.0).astype(np.int16))
  return output.getvalue()


@functools.lru_cache(maxsize=4)
def kit(rate: int = RATE) -> dict[str, np.ndarray]:
  """{instrument: [samples] float64}: one stroke of each, at its place in the mix."""
  generator = np.random.default_rng(_SEED)

  def time(seconds):
    return np.arange(round(seconds * rate)) / rate

  def noise(seconds, decay, low, high=None):
    band = [low, high] if high else low
    sections = signal.butter(2, band, 'bandpass' if high else 'highpass', fs=rate, output='sos')
    t = time(seconds)
    return signal.sosfilt(sections, generator.standard_normal(len(t))) * np.exp(-t / decay)

  def tone(seconds, decay, pitch, sweep=0.0, sweep_time=0.03):
    t = time(seconds)
    # The integral of pitch + sweep * exp(-t / sweep_time).
    phase = pitch * t + sweep * sweep_time * (1.0 - np.exp(-t / sweep_time))
    return np.sin(2 * np.pi * phase) * np.exp(-t / decay)

  def partials(seconds, decay, pitches):
    return sum(tone(seconds, decay, pitch) for pitch in pitches) / len(pitches)

  top = 0.45 * rate
  sounds = {
    'crash': noise(1.4, 0.45, min(2500.0, top / 2)) + 0.3 * partials(1.4, 0.4, (2210.0, 2870.0, 3410.0)),
    'ride': 0.6 * noise(0.8, 0.12, min(3500.0, top / 2)) + 0.8 * partials(0.8, 0.3, (2640.0, 3150.0, 3720.0)),
    'snare': noise(0.3, 0.08, 900.0, top) + 0.9 * tone(0.3, 0.06, 185.0, 60.0),
    'kick': tone(0.5, 0.14, 48.0, 160.0),
    'hi-hat': noise(0.15, 0.03, min(6500.0, top / 1.3)),
    'tom': tone(0.5, 0.16, 110.0, 60.0) + 0.1 * noise(0.5, 0.02, 500.0),
  }
  # Strokes die away to nothing and have no step at the end.
  return {name: _LEVELS[name] * s / np.abs(s).max() * np.linspace(1, 0, len(s)) ** 0.5 for name, s in sounds.items()}
