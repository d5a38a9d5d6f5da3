"""A groove of one's own as a prompt, and its continuations as files: MIDI, WAV, text and a piano roll."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxpapers.drums import data, encoding, midi, notation, synth
from jaxpapers.engine.errors import UserError, suggest

_MIDI_SUFFIXES = ('.mid', '.midi')


class Prompt(NamedTuple):
  """The measures to continue.

  Attributes:
    name: for file names.
    grid: [measures * 16, 6] bool.
    bpm: quarter notes a minute.
    remarks: sentences about what of the file did not fit into the grid.
  """

  name: str
  grid: np.ndarray
  bpm: float
  remarks: tuple[str, ...]


class Take(NamedTuple):
  """One continuation.

  Attributes:
    grid: [steps, 6] bool, prompt included.
    repaired: illegal lines of the text that were read as rests, cut or padded.
  """

  grid: np.ndarray
  repaired: int


def read_prompt(source: str, measures: int = 2) -> Prompt:
  """The first measures of a MIDI file, of a text in the notation, or of a groove in this package.

  Leading silent measures do not count, nor do silent ones behind the last hit.

  Args:
    source: a file named .mid, .midi or .txt, or a name such as '7_100_pop_142_beat_4-4'.
    measures: how many.

  Raises:
    UserError: if there is no such groove, it cannot be read, is not in 4/4, or is too short.
  """
  if measures < 1:
    raise UserError(f'A prompt has at least 1 measure, not {measures}.')
  path, bpm = Path(source), 120.0
  if path.suffix.lower() in _MIDI_SUFFIXES:
    name = path.stem
    grid, bpm, remarks = _from_midi(path)
  elif path.suffix.lower() == '.txt':
    name = path.stem
    grid, remarks = _from_text(path)
  else:
    known = {groove.name: groove for groove in data.bundled()}
    if source not in known:
      raise UserError(f'No groove of this package is called {source!r}, and it is no .mid or .txt file.{_near(source)}')
    name, grid, bpm, remarks = source, known[source].grid, float(known[source].bpm), ()
    _only_four(known[source].time_signature.replace('-', '/'), source)
  grid = notation.drop_leading_silence(grid)
  last = int(np.max(np.flatnonzero(grid.any(axis=1)), initial=-1)) + 1
  found = -(-last // notation.STEPS)
  if found < measures:
    raise UserError(
      f'{source} has {found} measures that sound; the prompt needs {measures} (set --prompt_measures for fewer).'
    )
  wanted = measures * notation.STEPS
  return Prompt(name, np.pad(grid, ((0, max(wanted - len(grid), 0)), (0, 0)))[:wanted], bpm, remarks)


def read_take(prompt: np.ndarray, completion: str) -> Take:
  """The groove of a prompt [steps, 6] and the text that a model wrote behind it."""
  parsed = notation.parse(completion)
  return Take(np.concatenate([prompt, parsed.grid]), parsed.repaired + parsed.blank)


def write_takes(
  folder: str | os.PathLike, prompt: Prompt, takes: Sequence[Take], bpm: float | None = None, **settings: object
) -> list[Path]:
  """Writes NAME-1.mid, .wav, .png and .txt and so on, and NAME.json, which says what they are; returns the paths.

  Args:
    folder: made if it is not there.
    prompt: what the takes continue.
    takes: the continuations.
    bpm: tempo of the files; None is the prompt's.
    **settings: further entries of the JSON file.

  Raises:
    UserError: if the folder cannot be written to.
  """
  # Drawing is needed here alone.
  import matplotlib.pyplot as plt

  from jaxpapers.drums import figures
  from jaxpapers.drums.structure import stability

  bpm = prompt.bpm if bpm is None else bpm
  folder, written, entries = Path(folder), [], []

  def write(name: str, content: bytes) -> str:
    path = folder / name
    path.write_bytes(content)
    written.append(path)
    return name

  try:
    folder.mkdir(parents=True, exist_ok=True)
    for number, take in enumerate(takes, 1):
      stem = f'{prompt.name}-{number}'
      samples = synth.render(take.grid, bpm)
      figure = figures.piano_roll({stem: take.grid}, len(prompt.grid))
      figure.savefig(folder / f'{stem}.png', dpi=120)
      plt.close(figure)
      written.append(folder / f'{stem}.png')
      entries.append(
        {
          'midi': write(f'{stem}.mid', midi.write(take.grid, bpm)),
          'wav': write(f'{stem}.wav', synth.wav(samples)),
          'text': write(f'{stem}.txt', notation.to_text(take.grid).encode()),
          'picture': f'{stem}.png',
          'measures': len(take.grid) / notation.STEPS,
          'repaired_lines': take.repaired,
          'stability': stability(take.grid, most=None).tolist(),
        }
      )
    note = {'prompt': prompt.name, 'remarks': prompt.remarks, 'bpm': bpm, **settings, 'takes': entries}
    write(f'{prompt.name}.json', (json.dumps(note, indent=2) + '\n').encode())
  except OSError as error:
    raise UserError(f'{folder} cannot be written to: {error.strerror}.') from error
  return written


def _from_midi(path: Path) -> tuple[np.ndarray, float, tuple[str, ...]]:
  try:
    file = midi.read(_bytes(path))
  except ValueError as error:
    raise UserError(f'{path} cannot be read: {error}.') from error
  encoded = encoding.encode(file)
  if encoded.skipped:
    raise UserError(f'{path} cannot be continued: {encoded.skipped}.')
  _only_four(f'{encoded.numerator}/4', str(path))
  if not encoded.grid.any():
    raise UserError(f'{path} has no drum that the notation knows; it read {encoded.hits} notes.')
  remarks = []
  if encoded.ignored:
    remarks.append(f'{encoded.ignored} hits of pedal hi-hat, tambourine, cowbell or clap were left out')
  for pitch, hits in encoded.unknown.items():
    remarks.append(f'{hits} hits of pitch {pitch}, which is no drum of the notation, were left out')
  if encoded.merged:
    remarks.append(f'{encoded.merged} hits fell on a place that had one')
  bpm = round(60e6 / file.tempos[0][2], 3) if file.tempos and file.tempos[0][2] else 120.0
  return encoded.grid, bpm, tuple(remarks)


def _from_text(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
  try:
    parsed = notation.parse(_bytes(path).decode())
  except UnicodeDecodeError as error:
    raise UserError(f'{path} is no text.') from error
  if not parsed.grid.any():
    raise UserError(f'{path} has no hit: lines are six characters, "o" for a hit and "-" for a rest.')
  return parsed.grid, (*parsed.problems, *([f'{parsed.blank} empty lines were skipped'] if parsed.blank else []))


def _bytes(path: Path) -> bytes:
  try:
    return path.read_bytes()
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror}.') from error


def _only_four(signature: str, source: str) -> None:
  if signature != '4/4':
    raise UserError(f'{source} is in {signature}; measures of the notation are in 4/4.')


def _near(source: str) -> str:
  return suggest(source, [groove.name for groove in data.bundled()])
