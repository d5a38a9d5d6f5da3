"""Clips of the database as a random-access source: frames, score, starting direction and exploration time."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpapers.engine.errors import UserError
from jaxpapers.vr_quality.database import Tables
from jaxpapers.vr_quality.splits import rows_of
from jaxpapers.vr_quality.videos import condition_frames, keyframes

SECONDS = (7, 7, 15, 15)


class ClipSource:
  """Examples are rows of `infoAB_all`: {'frames', 'mos', 'start', 'time', 'condition', 'video'}.

  A video's frames are looked for in `<folder>/frames/<name without .mp4>/` (one picture per second), else decoded from
  `<folder>/<name>` or `<folder>/videos/<name>`, which needs imageio with PyAV.
  """

  def __init__(
    self,
    folder: str | os.PathLike,
    tables: Tables,
    rows: Sequence[int] | np.ndarray,
    size: tuple[int, int] = (512, 1024),
  ):
    """Takes the rows of one part of a split.

    Args:
      folder: where frames or videos are.
      tables: the database.
      rows: numbers as in `splits`.
      size: (height, width) of the frames.

    Raises:
      UserError: naming the first video without frames, before any training begins.
    """
    self.tables, self.rows, self.size = tables, np.asarray(rows), size
    self._condition, self._video = rows_of(len(tables.video_name))
    self._paths = {}
    for video in np.unique(self._video[self.rows]):
      name = str(tables.video_name[video])
      places = [Path(folder) / 'frames' / Path(name).stem, Path(folder) / name, Path(folder) / 'videos' / name]
      found = next((path for path in places if path.exists()), None)
      if found is None:
        raise UserError(f'No frames or video of {name!r}: neither of {", ".join(map(str, places))} exists.')
      self._paths[int(video)] = found

  def __len__(self) -> int:
    """Number of examples."""
    return len(self.rows)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Example `index`.

    Returns:
      frames: [7, height, width, 3] uint8 RGB, not centred. mos: float32. start: [2] float32 longitude and latitude in
      radians. time: int32, 0 for 7 s and 1 for 15 s. condition: int32 number in CONDITIONS. video: int32.
    """
    row = int(self.rows[index])
    condition, video = int(self._condition[row]), int(self._video[row])
    start = condition % 2
    frames = condition_frames(keyframes(self._paths[video], self.size), SECONDS[condition])
    angles = np.deg2rad([self.tables.start_yaw[video, start], -self.tables.start_pitch[video, start]])
    return {
      'frames': frames,
      'mos': np.float32(self.tables.mos[video, condition]),
      'start': angles.astype(np.float32),
      'time': np.int32(condition // 2),
      'condition': np.int32(condition),
      'video': np.int32(video),
    }
