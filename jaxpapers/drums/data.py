"""Grooves of the Groove MIDI Dataset: a zip, a folder, TFDS, or the encodings that lie in this package.

`grooves.npz` was made by `pack` from the data set's zip. `grooves.ATTRIBUTION.txt` names source, licence (CC BY 4.0)
and changes.

    python -m jaxpapers.drums.data groove-v1.0.0-midionly.zip grooves.npz
"""

import csv
import importlib.resources
import io
import json
import os
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxpapers.drums import encoding, notation
from jaxpapers.engine.errors import UserError, suggest

SPLITS = ('train', 'dev', 'test')
PAGE = 'https://magenta.tensorflow.org/datasets/groove'
BUNDLE = 'grooves.npz'
_TABLE = 'info.csv'
_EVALUATION = 'eval_session'
_COLUMNS = ('drummer', 'session', 'id', 'style', 'bpm', 'beat_type', 'time_signature', 'midi_filename', 'split')


class Groove(NamedTuple):
  """One performance.

  Attributes:
    name: number of the drummer and stem of the file, such as '7_100_pop_142_beat_4-4'.
    split: 'train', 'dev' or 'test'.
    style: such as 'pop' or 'latin-samba'; what stands before the first '-' is the primary style.
    bpm: quarter notes a minute.
    time_signature: such as '4-4'.
    grid: [steps, 6] bool.
  """

  name: str
  split: str
  style: str
  bpm: int
  time_signature: str
  grid: np.ndarray


class Reading(NamedTuple):
  """What a reader found.

  Attributes:
    grooves: sorted by split and name.
    skipped: {name: why it has no grid}.
    counts: over the grooves: 'hits', 'merged', 'late', 'ignored' and 'unknown' as in `encoding.Encoded`.
  """

  grooves: list[Groove]
  skipped: dict[str, str]
  counts: dict[str, int]


def bundled() -> list[Groove]:
  """The 457 encodings of the paper as they lie in this package, leading silence and odd signatures included."""
  with importlib.resources.files(__package__).joinpath(BUNDLE).open('rb') as file, np.load(file) as data:
    names, splits, lines = str(data['names']).split('\n'), data['split'], data['lines']
    width = len(notation.INSTRUMENTS)
    grid = np.unpackbits(data['bits'], count=int(lines.sum()) * width).astype(bool).reshape(-1, width)
  grids = np.split(grid, np.cumsum(lines)[:-1])
  return [_named(name, SPLITS[s], g) for name, s, g in zip(names, splits, grids, strict=True)]


def read_gmd(path: str | os.PathLike) -> Reading:
  """The beats of sessions 1 to 3, from the data set's zip or its unpacked folder. Source: Gillick et al., ICML 2019.

  Raises:
    UserError: naming the file that is missing or cannot be read, or the line of `info.csv` that is wrong.
  """
  path = Path(path)
  if path.is_dir():
    return _read_table(path, _folder_member(path))
  try:
    with zipfile.ZipFile(path) as file:
      return _read_table(path, _zip_member(path, file))
  except FileNotFoundError as error:
    raise UserError(f'There is no {path}; the Groove MIDI Dataset comes from {PAGE}.') from error
  except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
    raise UserError(f'{path} cannot be read as the zip of the Groove MIDI Dataset: {error}.') from error


def read_tfds(data_dir: str | os.PathLike | None = None, config: str = 'full-midionly') -> Reading:
  """The same grooves from TFDS's `groove`, prepared as ArrayRecord files; TensorFlow is not needed.

  Source: Gillick et al., ICML 2019.

  Args:
    data_dir: where datasets are prepared; None is TFDS_DATA_DIR or ~/tensorflow_datasets.
    config: a config of whole performances; those cut into two or four bars cannot give the same grooves.

  Raises:
    UserError: if the data set is not prepared, cannot be read, or the config is a cut one.
  """
  # Loading tfds takes a second or two, which only its users should pay.
  import tensorflow_datasets as tfds

  if 'bar' in config:
    raise UserError(f'groove/{config} holds grooves cut into bars, with times in seconds; take groove/full-midionly.')
  where = Path(os.path.expanduser(data_dir or os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')))
  hint = (
    f'Prepare it once, on any machine, with `tfds build groove/{config} --file_format=array_record --data_dir={where}` '
    '(that step needs TensorFlow; reading does not).'
  )
  versions = sorted((where / 'groove' / config).glob('*/features.json'))
  if not versions:
    raise UserError(f'The dataset groove/{config} is not in {where}. {hint}')
  items = []
  try:
    # The builder of the name itself would import TensorFlow.
    builder = tfds.builder_from_directory(versions[-1].parent)
    for split in ('train', 'validation', 'test'):
      source = builder.as_data_source(split)
      items += [_tfds_item(source[i], builder.info.features, split) for i in range(len(source))]
  except Exception as error:
    reason = str(error).strip().split('\n')[0].rstrip('.')
    raise UserError(f'Cannot read groove/{config} in {where}: {reason}. {hint}') from error
  return _encode_all(items, f'TFDS groove/{config}')


def load(source: str = 'bundled', path: str = '') -> list[Groove]:
  """Grooves of 'bundled', 'gmd' (a zip or folder at `path`) or 'tfds' (prepared in `path`).

  Raises:
    UserError: for another source, and what the readers find.
  """
  sources: Mapping[str, Callable[[], list[Groove]]] = {
    'bundled': bundled,
    'gmd': lambda: read_gmd(path).grooves,
    'tfds': lambda: read_tfds(path or None).grooves,
  }
  if source not in sources:
    raise UserError(f'Unknown source of grooves {source!r}.{suggest(source, sources)}')
  return sources[source]()


def records(
  grooves: Iterable[Groove],
  time_signatures: Sequence[str] = ('4-4',),
  official: bool = False,
) -> dict[str, list[Groove]]:
  """{split: grooves sorted by name} without leading silence, those with fewer than 129 lines left out.

  Args:
    grooves: as encoded.
    time_signatures: the signatures to keep: measures have 16 lines, so those of others are not measures.
    official: keep every signature, as the authors do.
  """
  result: dict[str, list[Groove]] = {split: [] for split in SPLITS}
  for groove in sorted(grooves, key=lambda g: g.name):
    if official or groove.time_signature in time_signatures:
      grid = notation.drop_leading_silence(groove.grid)
      if len(grid) >= notation.SHORTEST:
        result[groove.split].append(groove._replace(grid=grid))
  return result


def json_lines(grooves: Iterable[Groove]) -> str:
  """Records as the authors hand them to a fine-tuning service: a line of `prompt`, `completion`, `name` each."""
  return ''.join(
    json.dumps({'prompt': prompt, 'completion': completion, 'name': groove.name}) + '\n'
    for groove in grooves
    for prompt, completion in [notation.prompt_completion(groove.grid)]
  )


def pack(source: str, output: str) -> None:
  """Writes the derivative that this package carries: names, splits and grids as bits."""
  grooves = read_gmd(source).grooves
  np.savez_compressed(
    output,
    names=np.asarray('\n'.join(groove.name for groove in grooves)),
    split=np.asarray([SPLITS.index(groove.split) for groove in grooves], np.uint8),
    lines=np.asarray([len(groove.grid) for groove in grooves], np.uint16),
    bits=np.packbits(np.concatenate([groove.grid for groove in grooves])),
  )


class _Item(NamedTuple):
  """A performance before it is encoded; `beat` leaves out fills."""

  id: str
  stem: str
  split: str
  beat: bool
  midi: Callable[[], bytes]


def _named(name: str, split: str, grid: np.ndarray) -> Groove:
  _, _, style, bpm, _, signature = name.split('_')
  return Groove(name, split, style, int(bpm), signature, grid)


def _encode_all(items: Sequence[_Item], source: str) -> Reading:
  grooves, skipped, counts = [], {}, Counter()
  for item in items:
    if not item.beat or _EVALUATION in item.id:
      continue
    name = f'{item.id.split("/")[0].removeprefix("drummer")}_{item.stem}'
    try:
      encoded = encoding.encode(item.midi())
    except ValueError as error:
      raise UserError(f'{source}: the MIDI of {item.id} cannot be read: {error}.') from error
    if encoded.skipped:
      skipped[name] = encoded.skipped
      continue
    counts.update({key: getattr(encoded, key) for key in ('hits', 'merged', 'late', 'ignored')})
    counts['unknown'] += sum(encoded.unknown.values())
    grooves.append(_named(name, {'validation': 'dev'}.get(item.split, item.split), encoded.grid))
  if not grooves:
    raise UserError(f'{source} holds no groove that can be encoded.')
  return Reading(sorted(grooves, key=lambda g: (SPLITS.index(g.split), g.name)), skipped, dict(counts))


def _read_table(path: Path, member: Callable[[str], bytes]) -> Reading:
  """Reads info.csv and the files it names."""
  try:
    table = csv.DictReader(io.StringIO(member(_TABLE).decode(), newline=''))
    missing = [name for name in _COLUMNS if name not in (table.fieldnames or ())]
    if missing:
      raise UserError(f'{path}: {_TABLE} has no column {", ".join(map(repr, missing))}.')
    items = [_row_item(row, f'{path}: {_TABLE}, line {table.line_num}', member) for row in table]
  except (UnicodeDecodeError, csv.Error) as error:
    raise UserError(f'{path}: {_TABLE} is no CSV file: {error}.') from error
  return _encode_all(items, str(path))


def _row_item(row: Mapping[str, str], where: str, member: Callable[[str], bytes]) -> _Item:
  for column, known in (('split', ('train', 'validation', 'test')), ('beat_type', ('beat', 'fill'))):
    if row[column] not in known:
      raise UserError(f'{where}: {column} is {row[column]!r}, not one of {", ".join(known)}.')
  file = row['midi_filename'] or ''
  stem = Path(file).stem
  if stem.count('_') != 4 or not stem.split('_')[2].isdigit():
    raise UserError(f'{where}: {file!r} is not named NUMBER_STYLE_BPM_TYPE_SIGNATURE.mid.')
  return _Item(row['id'], stem, row['split'], row['beat_type'] == 'beat', lambda: member(file))


def _folder_member(path: Path) -> Callable[[str], bytes]:
  root = path / 'groove' if (path / 'groove' / _TABLE).exists() else path

  def member(name: str) -> bytes:
    try:
      return (root / name).read_bytes()
    except OSError as error:
      raise UserError(f'{root / name} cannot be read ({error.strerror}); the data set comes from {PAGE}.') from error

  return member


def _zip_member(path: Path, file: zipfile.ZipFile) -> Callable[[str], bytes]:
  root = 'groove/' if f'groove/{_TABLE}' in file.namelist() else ''

  def member(name: str) -> bytes:
    try:
      return file.read(root + name)
    except KeyError as error:
      raise UserError(f'{path} has no {root + name}; the data set comes from {PAGE}.') from error

  return member


def _tfds_item(example: Mapping[str, Any], features: Mapping[str, Any], split: str) -> _Item:
  """The stem of the original file is not among the features, but they make it up."""
  style = example['style']
  name = features['style']['primary'].int2str(int(style['primary']))
  secondary = _text(style['secondary'])
  kind = features['type'].int2str(int(example['type']))
  signature = features['time_signature'].int2str(int(example['time_signature']))
  key = _text(example['id'])
  styles = '-'.join(part for part in (name, secondary.replace('/', '-')) if part)
  stem = f'{key.split("/")[-1]}_{styles}_{int(example["bpm"])}_{kind}_{signature}'
  midi = example['midi']
  return _Item(key, stem, split, kind == 'beat', lambda: bytes(midi))


def _text(value: Any) -> str:
  return value.decode() if isinstance(value, bytes) else str(value)


if __name__ == '__main__':
  pack(*sys.argv[1:3])
