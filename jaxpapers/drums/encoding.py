"""From the note-ons of a MIDI file to a grid, with a count of everything that has no place in it."""

from typing import NamedTuple

import numpy as np

from jaxpapers.drums import midi
from jaxpapers.drums.notation import IGNORED, INSTRUMENTS, MERGED, STEPS

MEASURES = 16
_UNKNOWN, _NO_COLUMN = -2, -1
_COLUMN = np.full(128, _UNKNOWN)
_COLUMN[list(IGNORED)] = _NO_COLUMN
for _index, _pitches in enumerate(MERGED):
  _COLUMN[list(_pitches)] = _index


class Encoded(NamedTuple):
  """A groove and what became of its hits: `hits` = hits of the grid + merged + late + ignored + those of `unknown`.

  Attributes:
    grid: [measures * numerator * 4, 6] bool, [0, 6] where the file was skipped.
    numerator: quarter notes a measure.
    hits: note-ons that were read.
    merged: hits in a cell that had one already.
    late: known hits behind the last step.
    ignored: hits of pitches that the notation leaves out, such as the hi-hat pedal.
    unknown: {pitch: hits} of pitches that are no drum of the notation's table.
    skipped: why the file has no grid; '' where it has one.
  """

  grid: np.ndarray
  numerator: int
  hits: int
  merged: int
  late: int
  ignored: int
  unknown: dict[int, int]
  skipped: str


def quantise(tick: np.ndarray, ticks_per_quarter: int) -> np.ndarray:
  """[...] number of the nearest sixteenth note of integer ticks; halves go up."""
  return (8 * np.asarray(tick, np.int64) + ticks_per_quarter) // (2 * ticks_per_quarter)


def encode(data: bytes | midi.Midi, official: bool = False, measures: int = MEASURES) -> Encoded:
  """The grid of the first measures of a file.

  The signature is the last one in the file, 4/4 where there is none; a denominator other than 4 skips the file.

  Args:
    data: a MIDI file, or what `midi.read` made of it.
    official: read track 0 only and every channel of it, as the authors do; otherwise all tracks, and of a file that
      uses the drum channel only that channel.
    measures: how many; shorter grooves are padded with rests.

  Raises:
    ValueError: what `midi.read` finds.
  """
  file = midi.read(data) if isinstance(data, bytes | bytearray) else data
  read = file.track == 0 if official else np.ones(len(file.tick), bool)
  if not official and np.any(file.channel == midi.DRUM_CHANNEL):
    read = file.channel == midi.DRUM_CHANNEL
  signatures = [s for s in file.time_signatures if s[0] == 0 or not official]
  signatures = signatures if official else sorted(signatures, key=lambda s: s[1])
  numerator, denominator = signatures[-1][2:] if signatures else (4, 4)
  hits = int(read.sum())
  if denominator != 4 or not numerator:
    reason = f'its time signature is {numerator}/{denominator}, whose denominator is not 4'
    return Encoded(np.zeros((0, len(INSTRUMENTS)), bool), numerator, hits, 0, 0, 0, {}, reason)
  steps = measures * numerator * STEPS // 4
  step, column = quantise(file.tick[read], file.ticks_per_quarter), _COLUMN[file.pitch[read]]
  placed = (column >= 0) & (step < steps)
  grid = np.zeros((steps, len(INSTRUMENTS)), bool)
  grid[step[placed], column[placed]] = True
  unknown, counts = np.unique(file.pitch[read][column == _UNKNOWN], return_counts=True)
  return Encoded(
    grid,
    numerator,
    hits,
    merged=int(placed.sum() - grid.sum()),
    late=int(np.sum((column >= 0) & (step >= steps))),
    ignored=int(np.sum(column == _NO_COLUMN)),
    unknown=dict(zip(unknown.tolist(), counts.tolist(), strict=True)),
    skipped='',
  )
