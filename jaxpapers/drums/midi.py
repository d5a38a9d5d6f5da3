"""MIDI files: the note-ons of a file, read event by event, and grids as files with real note-offs.

Reading goes by events because files of drum programs often lack note-offs, and libraries that pair note-ons with
note-offs lose such notes. `mido` reads by events too and agrees on every file, at a thirtieth of the speed.
"""

import io
import struct
from typing import NamedTuple

import chex
import numpy as np

from jaxpapers.drums.notation import CANONICAL, INSTRUMENTS

DRUM_CHANNEL = 9
TICKS_PER_QUARTER = 480
_TICKS_PER_STEP = TICKS_PER_QUARTER // 4


class Midi(NamedTuple):
  """Note-ons with velocity > 0 of all tracks, in the order of the file.

  Attributes:
    tick: [notes] int64, absolute.
    pitch: [notes] int64.
    velocity: [notes] int64.
    channel: [notes] int64, 0..15.
    track: [notes] int64.
    ticks_per_quarter: the resolution.
    time_signatures: (track, tick, numerator, denominator) in the order of the file.
    tempos: (track, tick, microseconds a quarter note) in the order of the file.
  """

  tick: np.ndarray
  pitch: np.ndarray
  velocity: np.ndarray
  channel: np.ndarray
  track: np.ndarray
  ticks_per_quarter: int
  time_signatures: tuple[tuple[int, int, int, int], ...]
  tempos: tuple[tuple[int, int, int], ...]


def read(data: bytes) -> Midi:
  """The note-ons of a standard MIDI file of type 0 or 1; data bytes above 127 are clipped.

  Source: the MIDI 1.0 file format.

  Raises:
    ValueError: for bytes that are no such file, a file cut short, or a resolution in frames a second.
  """
  if len(data) < 14 or data[:4] != b'MThd':
    raise ValueError('not a standard MIDI file: it does not begin with MThd')
  length, kind, tracks, division = struct.unpack('>IHHH', data[4:14])
  if kind > 1:
    raise ValueError(f'a MIDI file of type {kind}; types 0 and 1 are read')
  if not 0 < division < 0x8000:
    raise ValueError('its resolution is not in ticks a quarter note')
  notes: list[int] = []
  signatures: list[tuple[int, int, int, int]] = []
  tempos: list[tuple[int, int, int]] = []
  position, track = 8 + length, 0
  while track < tracks:
    name, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], 'big')
    start, position = position + 8, position + 8 + size
    if position > len(data):
      raise ValueError(f'the file is cut short in track {track} of {tracks}')
    if name == b'MTrk':
      try:
        _read_track(data[start:position], track, notes, signatures, tempos)
      except IndexError as error:
        raise ValueError(f'track {track} is cut short within an event') from error
      track += 1
  if not track:
    raise ValueError('the file has no track')
  columns = np.array(notes, np.int64).reshape(-1, 5).T
  return Midi(*columns, division, tuple(signatures), tuple(tempos))


def write(
  grid: np.ndarray,
  bpm: float = 120.0,
  velocity: int | np.ndarray = 100,
  length: float = 0.5,
  numerator: int = 4,
) -> bytes:
  """A type-1 file: tempo, signature and key in track 0, the hits on the drum channel in track 1.

  Source: the paper's decoder, with note-offs.

  Args:
    grid: [steps, 6] bool.
    bpm: quarter notes a minute.
    velocity: 1..127, one number or [steps, 6].
    length: of a note, in steps, above 0 and at most 1.
    numerator: quarter notes a measure.

  Raises:
    ValueError: for a value outside its range.
  """
  # The library is wanted only by those who write files.
  import mido

  grid = np.asarray(grid, bool)
  chex.assert_shape(grid, (None, len(INSTRUMENTS)))
  velocities = np.broadcast_to(velocity, grid.shape)[grid]
  if velocities.size and not (1 <= velocities.min() and velocities.max() <= 127):
    raise ValueError(f'A velocity lies in 1..127, not {velocities.min()}..{velocities.max()}.')
  if not 0 < length <= 1:
    raise ValueError(f'A note lasts above 0 and at most 1 step, not {length}.')
  if not 4 <= bpm <= 1000:
    raise ValueError(f'The tempo lies in 4..1000 quarter notes a minute, not {bpm}.')
  step, column = np.nonzero(grid)
  pitch = np.array(CANONICAL)[column]
  on = step * _TICKS_PER_STEP
  off = on + max(1, round(length * _TICKS_PER_STEP))
  events = [*zip(on, pitch, velocities.astype(int), strict=True), *((t, p, 0) for t, p in zip(off, pitch, strict=True))]
  # At one tick, notes end before others begin.
  events.sort(key=lambda event: (event[0], event[2] > 0))
  header = mido.MidiTrack(
    [
      mido.MetaMessage('set_tempo', tempo=mido.bpm2tempo(bpm)),
      mido.MetaMessage('time_signature', numerator=numerator, denominator=4),
      mido.MetaMessage('key_signature', key='C'),
      mido.MetaMessage('end_of_track'),
    ]
  )
  track, now = mido.MidiTrack([mido.Message('program_change', channel=DRUM_CHANNEL, program=0)]), 0
  for tick, note, loud in events:
    kind = 'note_on' if loud else 'note_off'
    message = mido.Message(kind, channel=DRUM_CHANNEL, note=int(note), velocity=int(loud), time=int(tick - now))
    track.append(message)
    now = tick
  track.append(mido.MetaMessage('end_of_track', time=int(len(grid) * _TICKS_PER_STEP - now)))
  file = mido.MidiFile(type=1, ticks_per_beat=TICKS_PER_QUARTER, tracks=[header, track])
  output = io.BytesIO()
  file.save(file=output)
  return output.getvalue()


def _read_track(
  data: bytes,
  track: int,
  notes: list[int],
  signatures: list[tuple[int, int, int, int]],
  tempos: list[tuple[int, int, int]],
) -> None:
  """Appends tick, pitch, velocity, channel and track of every note-on, and the signatures and tempos."""
  position, end, tick, running = 0, len(data), 0, 0
  while position < end:
    step = data[position]
    position += 1
    if step > 127:
      step, position = _number(data, position - 1)
    tick += step
    status = data[position]
    if status > 127:
      position += 1
      # Meta events leave the running status alone, as the common readers have it.
      running = running if status == 0xFF else status
    elif running:
      status = running
    else:
      raise ValueError(f'track {track} begins with a data byte where an event belongs')
    if status < 0xF0:
      if status < 0xA0 and status >= 0x90:
        velocity = data[position + 1]
        if velocity:
          notes += (tick, min(data[position], 127), min(velocity, 127), status & 15, track)
        position += 2
      else:
        position += 1 if 0xC0 <= status < 0xE0 else 2
    elif status == 0xFF:
      kind = data[position]
      size, position = _number(data, position + 1)
      content, position = data[position : position + size], position + size
      if kind == 0x58:
        signatures.append((track, tick, content[0], 1 << content[1]))
      elif kind == 0x51:
        tempos.append((track, tick, int.from_bytes(content[:3], 'big')))
    elif status in (0xF0, 0xF7):
      size, position = _number(data, position)
      position += size
    else:
      position += {0xF1: 1, 0xF2: 2, 0xF3: 1}.get(status, 0)
  if position > end:
    raise IndexError


def _number(data: bytes, position: int) -> tuple[int, int]:
  """A number of variable length, and where the bytes after it begin."""
  value = 0
  while True:
    byte = data[position]
    position += 1
    value = value << 7 | byte & 127
    if byte < 128:
      return value, position
