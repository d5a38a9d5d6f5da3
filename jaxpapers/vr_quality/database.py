"""The tables of the VRVQW database: the published CSV files and the compact npz give the same arrays."""

import csv
import gzip
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxpapers.engine.errors import UserError

CONDITIONS = ('7A', '7B', '15A', '15B')
PAGE = 'https://github.com/limuhit/VR-Video-Quality-in-the-Wild'
NPZ = 'vrvqw_tables.npz'


class Tables(NamedTuple):
  """What is known of the videos, in the order of all tables.

  Attributes:
    video_name: [videos] str.
    mos: [videos, 4] float64, mean opinion scores 1..5 per condition of CONDITIONS (seconds watched, start).
    start_yaw: [videos, 2] float64, starting longitude of A and B in degrees.
    start_pitch: [videos, 2] float64, degrees, positive looks down.
    n_frames: [videos] int64.
    fps: [videos] int64.
    n_scanpaths: [videos, 2] int64 per start.
    source_group: [videos] int64: videos of one upload share a number, -1 = not known; the CSV files know none.
  """

  video_name: np.ndarray
  mos: np.ndarray
  start_yaw: np.ndarray
  start_pitch: np.ndarray
  n_frames: np.ndarray
  fps: np.ndarray
  n_scanpaths: np.ndarray
  source_group: np.ndarray

  @property
  def scores(self) -> np.ndarray:
    """[rows] scores condition by condition, as `infoAB_all` and `splits.rows_of` number them."""
    return self.mos.T.ravel()

  @property
  def design(self) -> np.ndarray:
    """[videos, 2 starts (A, B), 2 times (7 s, 15 s)] scores."""
    return self.mos.reshape(-1, 2, 2).transpose(0, 2, 1)

  @property
  def duration(self) -> np.ndarray:
    """[videos] seconds."""
    return self.n_frames / self.fps

  def row_names(self) -> list[str]:
    """Names of the rows as in `infoAB_all`: `7_A_<video>`, ..."""
    return [f'{c[:-1]}_{c[-1]}_{name}' for c in CONDITIONS for name in self.video_name]


def load(folder: str) -> Tables:
  """The tables in `folder`: the npz if it is there, else the CSV files.

  Raises:
    UserError: if neither is there, or what `read_npz` and `read_csv` find.
  """
  path = Path(folder) / NPZ
  return read_npz(path) if path.exists() else read_csv(folder)


def read_npz(path: str | os.PathLike) -> Tables:
  """The compact file.

  Raises:
    UserError: if it cannot be read, an array is missing or misshapen, or a score lies outside 1..5.
  """
  try:
    with np.load(path) as file:
      data = {name: file[name] for name in file.files}
  except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
    raise UserError(f'{path} cannot be read as the tables of VRVQW: {error}.') from error
  keys = {
    'video_name': 'video_name',
    'mos': 'mos',
    'start_yaw': 'start_yaw_deg',
    'start_pitch': 'start_pitch_deg',
    'n_frames': 'n_frames',
    'fps': 'fps',
    'n_scanpaths': 'n_scanpaths',
    'source_group': 'source_group',
  }
  missing = [key for key in keys.values() if key not in data]
  if missing:
    raise UserError(f'{path} lacks the arrays {", ".join(missing)}.')
  arrays = {field: data[key] for field, key in keys.items()}
  arrays |= {k: v.astype(np.int64) for k, v in arrays.items() if v.dtype.kind in 'iu'}
  arrays |= {k: v.astype(np.float64) for k, v in arrays.items() if v.dtype.kind == 'f'}
  return _checked(Tables(**arrays), str(path))


def read_csv(folder: str) -> Tables:
  """The published files, plain or gzip-compressed: infoA, infoB, infoAB_all, video_info, scanpathA_mos, scanpathB_mos.

  Raises:
    UserError: with file and line: a missing file or column, text where a number belongs, a score outside 1..5, a pitch
      beyond 90 degrees, a repeated video, files that name other videos or contradict each other.
  """
  starts = [_by_video(folder, f'info{s}', ('HM_pitch', 'HM_yaw', '7s_MOS', '15s_MOS')) for s in 'AB']
  info = _by_video(folder, 'video_info', ('video_length', 'video_frame_rate'), key='video_names')
  names = list(starts[0])
  for label, table in (('infoB', starts[1]), ('video_info', info)):
    odd = set(names) ^ set(table)
    if odd:
      raise UserError(f'{folder}: infoA and {label} name different videos, for example {sorted(odd)[0]!r}.')
  rows = np.array([[table[name] for name in names] for table in starts])  # [start, video, column]
  tables = Tables(
    np.array(names),
    np.stack([rows[s, :, column] for column in (2, 3) for s in (0, 1)], axis=1),
    rows[:, :, 1].T.copy(),
    rows[:, :, 0].T.copy(),
    *(np.array([info[name][column] for name in names]).astype(np.int64) for column in (0, 1)),
    np.stack([_count_scanpaths(folder, f'scanpath{s}_mos', names) for s in 'AB'], axis=1),
    np.full(len(names), -1, np.int64),
  )
  stacked = _by_video(folder, 'infoAB_all', ('MOS',))
  expected = dict(zip(tables.row_names(), tables.scores, strict=True))
  for name, (value,) in stacked.items():
    # The stacked table was written by another program: some of its numbers differ in the last bit.
    if not abs(expected.pop(name, np.nan) - value) <= 1e-12:
      raise UserError(f'{folder}: infoAB_all gives {name!r} the score {value}, which infoA and infoB do not.')
  if expected:
    raise UserError(f'{folder}: infoAB_all lacks {len(expected)} rows, for example {next(iter(expected))!r}.')
  return _checked(tables, folder)


def read_rows(path: str | os.PathLike, columns: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
  """(line number, values of `columns`) of a CSV file with a header, plain or .gz.

  Raises:
    UserError: for a file that is missing or no text, a missing column, or a row with too few values.
  """
  path = Path(path)
  try:
    with (gzip.open if path.suffix == '.gz' else open)(path, 'rt', newline='', encoding='utf-8') as file:
      reader = csv.reader(file)
      header = [name.strip() for name in next(reader, [])]
      missing = [name for name in columns if name not in header]
      if missing:
        raise UserError(f'{path}, line 1: no column {", ".join(map(repr, missing))}; it has {", ".join(header)}.')
      places = [header.index(name) for name in columns]
      for row in reader:
        if not row:
          continue
        if len(row) != len(header):
          raise UserError(f'{path}, line {reader.line_num}: {len(row)} values under {len(header)} columns.')
        yield reader.line_num, tuple(row[place].strip() for place in places)
  except FileNotFoundError as error:
    raise UserError(f'{path} does not exist; the database comes from {PAGE}.') from error
  except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
    raise UserError(f'{path} cannot be read as a CSV file: {error}.') from error


def number(text: str, path: str | os.PathLike, line: int, column: str) -> float:
  """`text` as a finite number, or a UserError that names file, line and column."""
  try:
    value = float(text)
  except ValueError:
    value = float('nan')
  if not np.isfinite(value):
    raise UserError(f'{path}, line {line}: {column} is {text!r}, not a number.')
  return value


def find(folder: str, name: str) -> Path:
  """`name.csv` or `name.csv.gz` in `folder`, or a UserError."""
  for suffix in ('.csv', '.csv.gz'):
    path = Path(folder) / (name + suffix)
    if path.exists():
      return path
  raise UserError(f'{folder or "(no folder)"} has no {name}.csv (or .csv.gz); the database comes from {PAGE}.')


def _by_video(folder: str, name: str, columns: tuple[str, ...], key: str = 'VideoName') -> dict[str, list[float]]:
  path, table = find(folder, name), {}
  for line, (video, *values) in read_rows(path, (key, *columns)):
    if video in table:
      raise UserError(f'{path}, line {line}: {video!r} was there before.')
    table[video] = [number(v, path, line, c) for v, c in zip(values, columns, strict=True)]
  if not table:
    raise UserError(f'{path} has no rows.')
  return table


def _count_scanpaths(folder: str, name: str, videos: list[str]) -> np.ndarray:
  path, counts = find(folder, name), dict.fromkeys(videos, 0)
  for line, (text,) in read_rows(path, ('VideoName',)):
    video = text.rpartition('/')[0]
    if video not in counts:
      raise UserError(f'{path}, line {line}: unknown video {video!r}.')
    counts[video] += 1
  return np.array([counts[video] for video in videos], np.int64)


def _checked(tables: Tables, source: str) -> Tables:
  videos = len(tables.video_name)
  for name, array in tables._asdict().items():
    width = {'mos': 4, 'start_yaw': 2, 'start_pitch': 2, 'n_scanpaths': 2}.get(name)
    shape = (videos,) if width is None else (videos, width)
    if array.shape != shape:
      raise UserError(f'{source}: {name} has the shape {array.shape}, not {shape}.')
  for name, low, high in (('mos', 1, 5), ('start_pitch', -90, 90), ('start_yaw', -360, 360), ('fps', 1, 1000)):
    array = getattr(tables, name)
    bad = np.argwhere(~((array >= low) & (array <= high)))
    if len(bad):
      video, value = str(tables.video_name[bad[0][0]]), array[tuple(bad[0])]
      raise UserError(f'{source}: {name} of {video!r} is {value}, outside {low}..{high}.')
  return tables
