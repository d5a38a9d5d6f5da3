"""What `launch/benchmark.py --peer=NAME` compares the room with.

Here the encoder and the stability curve event by event and pair by pair: they follow the definitions word by word, with
`mido` as the reader, and are the reference of the tests. `llama_peer` has the network in another library.
"""

import io
from collections.abc import Callable
from fractions import Fraction

import ml_collections
import numpy as np

from jaxpapers.drums import benchmarks, encoding, structure
from jaxpapers.drums.llama_peer import transformers_peer
from jaxpapers.drums.notation import INSTRUMENTS, MERGED, STEPS
from jaxpapers.engine.measure import Measurement, median_seconds


def encode_by_event(content: bytes, track: int = 0, measures: int = encoding.MEASURES) -> np.ndarray | None:
  """[steps, 6] bool grid of a track of a MIDI file, or None for a signature in it whose denominator is not 4."""
  import mido

  file = mido.MidiFile(file=io.BytesIO(content), clip=True)
  tick, numerator, denominator, hits = 0, 4, 4, []
  for message in file.tracks[track]:
    tick += message.time
    if message.type == 'time_signature':
      numerator, denominator = message.numerator, message.denominator
    elif message.type == 'note_on' and message.velocity > 0:
      hits.append((tick, message.note))
  if denominator != 4:
    return None
  grid = np.zeros((measures * numerator * STEPS // 4, len(INSTRUMENTS)), bool)
  quarter = Fraction(file.ticks_per_beat)
  for tick, pitch in hits:
    step = (tick + quarter / 8) // (quarter / 4)
    for column, pitches in enumerate(MERGED):
      if pitch in pitches and step < len(grid):
        grid[step, column] = True
  return grid


def edit_distance(a: str, b: str) -> int:
  """Levenshtein distance by the table, cell by cell."""
  row = list(range(len(b) + 1))
  for i, x in enumerate(a, 1):
    before, row[0] = row[0], i
    for j, y in enumerate(b, 1):
      before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
  return row[-1]


def stability_by_pair(groove: str | np.ndarray) -> list[int]:
  """The stability curve, each measure compared with both neighbours."""
  m = structure.measure_strings(groove)
  return [min(edit_distance(m[i], m[i - 1]), edit_distance(m[i], m[i + 1])) for i in range(1, len(m) - 1)]


def event_by_event(
  config: ml_collections.ConfigDict, *, repeats: int, threads: int, grooves: int = 32
) -> list[Measurement]:
  """Encoding MIDI files and computing stability curves; examples are grooves, each a MIDI file.

  Args:
    config: not looked at: the grooves are those of the test split in this package.
    repeats: timed calls.
    threads: not looked at: both run in one.
    grooves: at most so many.
  """
  del config, threads
  grids, files = benchmarks.grooves(grooves)
  encode = median_seconds(lambda: [encode_by_event(file, track=1) for file in files], repeats)
  curves = median_seconds(lambda: [stability_by_pair(grid) for grid in grids], repeats)
  return [
    Measurement('encode MIDI by event', len(grids), encode, beside=benchmarks.ENCODE),
    Measurement('stability by pair', len(grids), curves, beside=benchmarks.STABILITY),
  ]


PEERS: dict[str, Callable[..., list[Measurement]]] = {
  'event_by_event': event_by_event,
  'transformers': transformers_peer,
}
