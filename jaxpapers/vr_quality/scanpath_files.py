"""Readers of recorded scanpaths: the database's CSV table and the HM_raw npy folder."""

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxpapers.engine.errors import UserError, suggest
from jaxpapers.vr_quality.database import number, read_rows

COLUMNS = ('VideoName', 'subject', 'HM_pitch', 'HM_yaw')


class Scanpaths(NamedTuple):
  """Recorded gaze directions.

  Attributes:
    video: [paths] str.
    subject: [paths] str, a label within its video, no global identity.
    lonlat: [paths, time, 2] float64 radians, longitude in [-pi, pi), latitude up; padded with the last point.
    length: [paths] int64, points that were recorded.
    rate: samples per second.
    dropped: recorded points that were left out, because the caller asked for it.
  """

  video: np.ndarray
  subject: np.ndarray
  lonlat: np.ndarray
  length: np.ndarray
  rate: float
  dropped: int

  def of(self, video: str) -> np.ndarray:
    """[observers, time, 2] of one video."""
    return self.lonlat[self.video == video]


def read_csv(path: str | os.PathLike, videos: Collection[str] | None = None, *, unequal: str = 'error') -> Scanpaths:
  """`scanpathA.csv` or `scanpathB.csv`: one row per video, subject and second, in time order, degrees.

  Args:
    path: the file, plain or .gz.
    videos: names that may occur; None: any.
    unequal: what to do when the subjects of one video have different numbers of rows: 'error', 'pad' (keep all, see
      `length`) or 'cut' (to the shortest of the video; `dropped` counts).

  Raises:
    UserError: naming file and line: a missing column, text where a number belongs, a pitch beyond 90 degrees, an empty
      video or subject, a video not in `videos`, rows of a subject that occur twice, unequal lengths.
  """
  if unequal not in ('error', 'pad', 'cut'):
    raise UserError(f"`unequal` is 'error', 'pad' or 'cut', not {unequal!r}.")
  blocks: dict[tuple[str, str], list[tuple[float, float]]] = {}
  first: dict[tuple[str, str], int] = {}
  current = None
  for line, (video, subject, pitch, yaw) in read_rows(path, COLUMNS):
    key = (video, subject)
    if not video or not subject:
      raise UserError(f'{path}, line {line}: the {"subject" if video else "VideoName"} is empty.')
    if videos is not None and video not in videos:
      raise UserError(f'{path}, line {line}: unknown video {video!r}.{suggest(video, videos)}')
    if key != current and key in blocks:
      raise UserError(f'{path}, line {line}: duplicate rows of subject {subject!r}, {video!r}: see line {first[key]}.')
    current = key
    first.setdefault(key, line)
    latitude, longitude = -number(pitch, path, line, 'HM_pitch'), number(yaw, path, line, 'HM_yaw')
    if abs(latitude) > 90.0:
      raise UserError(f'{path}, line {line}: HM_pitch is {pitch}, outside -90..90 degrees.')
    blocks.setdefault(key, []).append((longitude, latitude))
  if not blocks:
    raise UserError(f'{path} has no rows.')
  for (video, subject), rows in blocks.items():
    half = len(rows) // 2
    if half > 1 and len(rows) == 2 * half and rows[:half] == rows[half:] and len(set(rows)) > 1:
      line = first[video, subject] + half
      raise UserError(f'{path}, line {line}: duplicate rows of subject {subject!r}, {video!r}: all occur twice.')
  usual: dict[str, tuple[str, int]] = {}
  for (video, subject), rows in blocks.items():
    other, length = usual.setdefault(video, (subject, len(rows)))
    if len(rows) != length and unequal == 'error':
      raise UserError(
        f'{path}, line {first[video, subject]}: subject {subject!r} has {len(rows)} rows for {video!r}, '
        f"subject {other!r} has {length}; read with unequal='pad' or 'cut'."
      )
  paths = {key: np.array(rows) for key, rows in blocks.items()}
  dropped = 0
  if unequal == 'cut':
    least: dict[str, int] = {}
    for (video, _), path_ in paths.items():
      least[video] = min(len(path_), least.get(video, len(path_)))
    dropped = sum(len(path_) - least[video] for (video, _), path_ in paths.items())
    paths = {key: path_[: least[key[0]]] for key, path_ in paths.items()}
  return _stacked(paths, 1.0, dropped)


def read_npy(folder: str | os.PathLike, videos: Collection[str] | None = None, rate: float = 5.0) -> Scanpaths:
  """A folder of `{video}_{subject}.npy`, each [time, 2] of longitude 0..360 and latitude -90..90 degrees.

  Args:
    folder: such as `HM_raw`.
    videos: names that may occur; None: any.
    rate: samples per second.

  Raises:
    UserError: naming the file: another name, shape or type, numbers outside their range, an unknown video; or a folder
      without files.
  """
  files = sorted(Path(folder).glob('*.npy'))
  if not files:
    raise UserError(f'{folder} holds no .npy files named video_subject.npy.')
  paths = {}
  for file in files:
    name = re.fullmatch(r'(.+)_([^_]+)', file.stem)
    if name is None:
      raise UserError(f'{file} is not named video_subject.npy.')
    if videos is not None and name[1] not in videos:
      raise UserError(f'{file}: unknown video {name[1]!r}.{suggest(name[1], videos)}')
    try:
      path = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
      raise UserError(f'{file} cannot be read as an array: {error}.') from error
    if path.ndim != 2 or path.shape[1:] != (2,) or not len(path) or path.dtype.kind not in 'fiu':
      raise UserError(f'{file} holds {path.dtype} {path.shape}, not [time, 2] longitudes and latitudes.')
    path = path.astype(np.float64)
    bad = np.flatnonzero(~((path[:, 0] >= 0) & (path[:, 0] <= 360) & (np.abs(path[:, 1]) <= 90)))
    if len(bad):
      raise UserError(f'{file}, row {bad[0]}: {path[bad[0]]} is outside longitude 0..360, latitude -90..90.')
    # Longitude 0 is the left edge of the picture here, and its centre in the rest of this room.
    paths[name[1], name[2]] = path - (180.0, 0.0)
  return _stacked(paths, rate, 0)


def resample(lonlat: np.ndarray, rate: float, new_rate: float) -> np.ndarray:
  """[time, 2] radians at another sampling rate, linear in unwrapped longitude and in latitude.

  Args:
    lonlat: [time, 2].
    rate: its samples per second.
    new_rate: wanted samples per second.
  """
  times = np.arange(len(lonlat)) / rate
  wanted = np.arange(int(np.floor(times[-1] * new_rate + 1e-9)) + 1) / new_rate
  lon = np.interp(wanted, times, np.unwrap(lonlat[:, 0]))
  return np.stack([(lon + np.pi) % (2 * np.pi) - np.pi, np.interp(wanted, times, lonlat[:, 1])], axis=-1)


def _stacked(paths: dict[tuple[str, str], np.ndarray], rate: float, dropped: int) -> Scanpaths:
  """Paths in degrees, of any lengths and longitudes, as one padded array."""
  length = np.array([len(path) for path in paths.values()], np.int64)
  longest = int(length.max())
  padded = np.stack([np.pad(p, ((0, longest - len(p)), (0, 0)), mode='edge') for p in paths.values()])
  lon = (padded[..., 0] + 180.0) % 360.0 - 180.0
  lonlat = np.deg2rad(np.stack([lon, padded[..., 1]], axis=-1))
  video, subject = (np.array(names) for names in zip(*paths, strict=True))
  return Scanpaths(video, subject, lonlat, length, rate, dropped)
