"""The reader against mido, the writer against three libraries, the encoder against one that goes event by event."""

import io

import mido
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxpapers.drums import encoding, midi, notation, peers

GRIDS = hnp.arrays(bool, st.tuples(st.integers(1, 40), st.just(6)))


def save(tracks, tpq=480):
  output = io.BytesIO()
  mido.MidiFile(type=1, ticks_per_beat=tpq, tracks=[mido.MidiTrack(track) for track in tracks]).save(file=output)
  return output.getvalue()


def message(kind, time, channel, a, b):
  if kind == 'sysex':
    return mido.Message('sysex', data=[a, b], time=time)
  if kind == 'time_signature':
    return mido.MetaMessage(kind, numerator=a % 7 + 1, denominator=2 ** (b % 4), time=time)
  if kind == 'set_tempo':
    return mido.MetaMessage(kind, tempo=1000 * (a + 1), time=time)
  if kind == 'text':
    return mido.MetaMessage(kind, text='x' * b, time=time)
  values = {'program_change': ('program',), 'aftertouch': ('value',), 'control_change': ('control', 'value')}
  names = values.get(kind, ('note', 'velocity'))
  return mido.Message(kind, channel=channel, time=time, **dict(zip(names, (a, b), strict=False)))


KINDS = ('note_on', 'note_off', 'program_change', 'aftertouch', 'control_change', 'sysex')
EVENTS = st.builds(
  message,
  st.sampled_from((*KINDS, *KINDS[:1] * 3, 'time_signature', 'set_tempo', 'text')),
  st.integers(0, 300) | st.integers(0, 2**21),
  st.integers(0, 15),
  st.integers(0, 127),
  st.integers(0, 127),
)


def with_mido(content):
  rows, signatures, tempos = [], [], []
  file = mido.MidiFile(file=io.BytesIO(content), clip=True)
  for index, track in enumerate(file.tracks):
    tick = 0
    for m in track:
      tick += m.time
      if m.type == 'note_on' and m.velocity:
        rows.append((tick, m.note, m.velocity, m.channel, index))
      elif m.type == 'time_signature':
        signatures.append((index, tick, m.numerator, m.denominator))
      elif m.type == 'set_tempo':
        tempos.append((index, tick, m.tempo))
  return rows, file.ticks_per_beat, tuple(signatures), tuple(tempos)


@given(st.lists(st.lists(EVENTS, max_size=20), min_size=1, max_size=3), st.integers(1, 0x7FFF))
def test_reads_what_mido_reads(tracks, tpq):
  content = save(tracks, tpq)
  file = midi.read(content)
  rows = list(map(tuple, np.stack(file[:5], axis=1).tolist()))
  assert (rows, *file[5:]) == with_mido(content)


def track(body):
  header = b'MThd' + (6).to_bytes(4, 'big') + bytes([0, 0, 0, 1, 1, 0xE0])
  return header + b'MTrk' + len(body).to_bytes(4, 'big') + body


def test_running_status_clipped_bytes_and_foreign_chunks():
  body = bytes.fromhex('00 99 24 40 78 26 50 00 ff 01 01 41 81 00 2a 7f 00 99 ff c8 00 24 00 00 f7 02 11 22')
  content = track(body)
  content = content[:14] + b'JUNK' + (3).to_bytes(4, 'big') + b'abc' + content[14:]
  file = midi.read(content)
  assert file.tick.tolist() == [0, 120, 248, 248]
  assert file.pitch.tolist() == [36, 38, 42, 127] and file.velocity.tolist() == [64, 80, 127, 127]
  assert set(file.channel.tolist()) == {9}
  assert list(map(tuple, np.stack(file[:5], axis=1).tolist())) == with_mido(track(body))[0]


def test_damaged_files_are_named_for_what_they_are():
  whole = midi.write(np.eye(6, dtype=bool))
  for end in range(len(whole)):
    with pytest.raises(ValueError, match='cut short' if end >= 14 else 'not a standard MIDI file'):
      midi.read(whole[:end])
  for content, words in (
    (b'', 'not a standard MIDI file'),
    (b'RIFF' + whole[4:], 'not a standard MIDI file'),
    (whole[:9] + b'\2' + whole[10:], 'type 2'),
    (whole[:12] + b'\xe7\x28' + whole[14:], 'not in ticks'),
    (whole[:10] + b'\0\0' + whole[12:], 'no track'),
    (track(bytes.fromhex('00 24 40')), 'begins with a data byte'),
    (track(bytes.fromhex('00 99 24')), 'cut short within an event'),
    (track(bytes.fromhex('00 ff 58 04 04')), 'cut short within an event'),
    (track(bytes.fromhex('00 ff 58 00')), 'cut short within an event'),
  ):
    with pytest.raises(ValueError, match=words):
      midi.read(content)


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_give_notes_or_a_value_error(content, framed):
  try:
    file = midi.read(track(content) if framed else content)
  except ValueError:
    return
  assert framed and np.all((file.pitch < 128) & (file.velocity > 0) & (file.velocity < 128))


@settings(max_examples=30)
@given(GRIDS, st.floats(40, 240), st.sampled_from([0.25, 0.5, 1.0]))
def test_what_is_written_has_real_notes_for_every_reader(grid, bpm, length):
  content = midi.write(grid, bpm, length=length)
  encoded = encoding.encode(content)
  steps = len(encoded.grid)
  np.testing.assert_array_equal(encoded.grid, np.pad(grid, ((0, steps - len(grid)), (0, 0))))
  assert encoded.hits == grid.sum() and (encoded.merged, encoded.late, encoded.ignored, encoded.unknown) == (
    0,
    0,
    0,
    {},
  )
  file = mido.MidiFile(file=io.BytesIO(content))
  assert file.type == 1 and file.ticks_per_beat == 480
  tempo = next(m.tempo for m in file.tracks[0] if m.type == 'set_tempo')
  assert abs(60e6 / tempo - bpm) < 0.01 and file.length == pytest.approx(len(grid) / 4 * tempo / 1e6)
  sounding, tick = {}, 0
  for m in file.tracks[1]:
    tick += m.time
    if m.type == 'note_on':
      assert m.channel == 9 and m.note not in sounding
      sounding[m.note] = tick
    elif m.type == 'note_off':
      assert tick - sounding.pop(m.note) == 120 * length
  assert not sounding and tick == 120 * len(grid)


def test_other_libraries_count_the_same_hits():
  pretty_midi, symusic = pytest.importorskip('pretty_midi'), pytest.importorskip('symusic')
  generator = np.random.default_rng(1)
  for rate in (0.05, 0.4, 1.0):
    grid = generator.random((256, 6)) < rate
    content = midi.write(grid, 97)
    theirs = pretty_midi.PrettyMIDI(io.BytesIO(content)).instruments
    assert [len(track.notes) for track in theirs] == [grid.sum()] and theirs[0].is_drum
    assert sum(len(track.notes) for track in symusic.Score.from_midi(content).tracks) == grid.sum()


def test_velocities_and_their_bounds():
  grid = np.ones((4, 6), bool)
  velocity = np.arange(1, 25).reshape(4, 6)
  file = midi.read(midi.write(grid, velocity=velocity))
  order = np.argsort([notation.CANONICAL.index(p) for p in file.pitch] + 6 * (file.tick // 120))
  assert file.velocity[order].tolist() == velocity.ravel().tolist()
  assert midi.write(grid, velocity=np.full((4, 6), 100)) == midi.write(grid)
  for wrong, words in (
    ({'velocity': 0}, 'velocity'),
    ({'velocity': 128}, 'velocity'),
    ({'length': 0}, 'lasts'),
    ({'length': 1.5}, 'lasts'),
    ({'bpm': 1}, 'tempo'),
    ({'bpm': float('nan')}, 'tempo'),
  ):
    with pytest.raises(ValueError, match=words):
      midi.write(grid, **wrong)


def hits(pairs, signatures=(), tpq=480, channel=9):
  events = sorted([(tick, 0, s) for tick, s in signatures] + [(tick, 1, pitch) for tick, pitch in pairs])
  result, now = [], 0
  for tick, kind, value in events:
    if kind:
      result.append(mido.Message('note_on', channel=channel, note=value, velocity=90, time=tick - now))
    else:
      numerator, denominator = value
      result.append(mido.MetaMessage('time_signature', numerator=numerator, denominator=denominator, time=tick - now))
    now = tick
  return result


PITCHES = st.sampled_from(sorted({p for pitches in notation.MERGED for p in pitches} | {44, 54, 56, 39, 20, 81}))


@given(
  st.lists(st.tuples(st.integers(0, 40000), PITCHES), max_size=60),
  st.lists(st.tuples(st.integers(0, 40000), st.sampled_from([(4, 4), (3, 4), (5, 4), (6, 8)])), max_size=2),
  st.sampled_from([24, 96, 100, 220, 384, 480, 960]),
)
def test_encodes_as_one_goes_event_by_event(pairs, signatures, tpq):
  content = save([hits(pairs, signatures, tpq)], tpq)
  want, got = peers.encode_by_event(content), encoding.encode(content, official=True)
  assert bool(got.skipped) == (want is None) and got.hits == len(pairs)
  if want is None:
    assert got.grid.shape == (0, 6)
    return
  np.testing.assert_array_equal(got.grid, want)
  np.testing.assert_array_equal(encoding.encode(content).grid, want)
  assert got.unknown == {p: n for p in (20, 81) if (n := sum(pitch == p for _, pitch in pairs))}
  assert got.ignored == sum(pitch in (44, 54, 56, 39) for _, pitch in pairs)
  assert got.hits == got.grid.sum() + got.merged + got.late + got.ignored + sum(got.unknown.values())


def test_nearest_sixteenth_halves_up():
  assert encoding.quantise([0, 59, 60, 179, 180], 480).tolist() == [0, 0, 1, 1, 2]
  # A resolution not divisible by 8 has no gap between the cells.
  assert np.diff(encoding.quantise(np.arange(2000), 220)).max() == 1


def test_a_resolution_of_220_keeps_every_hit():
  ticks = np.arange(60) * 55 + 27
  encoded = encoding.encode(save([hits([(int(t), 36) for t in ticks], tpq=220)], 220), official=True)
  assert encoded.grid.sum() == 60


def test_tracks_and_channels():
  drums, bass = [(0, 36), (480, 38)], [(240, 42)]
  content = save([[], hits(drums), hits(bass, channel=2)])
  assert encoding.encode(content, official=True).grid.sum() == 0
  assert encoding.encode(content).hits == 2
  assert encoding.encode(save([[], hits(drums, channel=3), hits(bass, channel=2)])).hits == 3
  signature = save([hits(drums), hits([], [(0, (6, 8))])])
  assert not encoding.encode(signature, official=True).skipped and '6/8' in encoding.encode(signature).skipped
  both = save([hits(drums), hits(bass)])
  assert (encoding.encode(both, official=True).hits, encoding.encode(both).hits) == (2, 3)


def test_reads_files_without_note_offs_that_pairing_readers_thin_out():
  symusic = pytest.importorskip('symusic')
  grid = np.random.default_rng(2).random((64, 6)) < 0.5
  pairs = [(120 * int(s), notation.CANONICAL[c]) for s, c in zip(*np.nonzero(grid), strict=True)]
  content = save([[], hits(pairs)])
  np.testing.assert_array_equal(encoding.encode(content).grid[:64], grid)
  assert sum(len(track.notes) for track in symusic.Score.from_midi(content).tracks) < grid.sum()
