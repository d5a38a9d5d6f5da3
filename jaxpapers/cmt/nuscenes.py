"""nuScenes keyframes from the raw tables, in the frame of LIDAR_TOP; the official kit is not needed.

`NuScenes(root, version)` reads the tables once. `frame(token)` then gives what a detector wants of one keyframe: files,
matrices and boxes.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from jaxpapers.cmt import geometry
from jaxpapers.cmt.splits import select_scenes
from jaxpapers.cmt.tables import CAMERAS, CHANNELS, NONE, read_tables
from jaxpapers.engine.errors import UserError

MAX_GAP = 1.5
"""Seconds between two keyframes of an object beyond which its velocity is unknown; twice that over three keyframes."""

_CLASSES = {
  'vehicle.car': 'car',
  'vehicle.truck': 'truck',
  'vehicle.construction': 'construction_vehicle',
  'vehicle.bus.bendy': 'bus',
  'vehicle.bus.rigid': 'bus',
  'vehicle.trailer': 'trailer',
  'movable_object.barrier': 'barrier',
  'vehicle.motorcycle': 'motorcycle',
  'vehicle.bicycle': 'bicycle',
  'human.pedestrian.adult': 'pedestrian',
  'human.pedestrian.child': 'pedestrian',
  'human.pedestrian.construction_worker': 'pedestrian',
  'human.pedestrian.police_officer': 'pedestrian',
  'movable_object.trafficcone': 'traffic_cone',
}


class Sweep(NamedTuple):
  """A LiDAR recording before a keyframe's: its file, sensor to keyframe LiDAR [4, 4], and seconds between them."""

  path: epath.Path
  to_key: np.ndarray
  dt: float


class Camera(NamedTuple):
  """A picture: channel, file, intrinsics [3, 3], keyframe LiDAR to camera [4, 4], and (height, width)."""

  channel: str
  path: epath.Path
  intrinsics: np.ndarray
  lidar2cam: np.ndarray
  size: tuple[int, int]


class Objects(NamedTuple):
  """The annotated boxes of a keyframe.

  Attributes:
    boxes: float64 [n, 9] in the LiDAR frame: x, y, z (bottom), l, w, h, yaw, vx, vy; the velocity may be NaN.
    names: detection class, or the raw category if it is none.
    lidar_points: int [n]; likewise `radar_points`.
    radar_points: see lidar_points.
    attributes: names of each box's attributes.
    translation: [n, 3], gravity centre in the world.
    size: [n, 3], width, length, height.
    rotation: [n, 4], in the world.
    velocity: [n, 3], in the world.
  """

  boxes: np.ndarray
  names: np.ndarray
  lidar_points: np.ndarray
  radar_points: np.ndarray
  attributes: list[tuple[str, ...]]
  translation: np.ndarray
  size: np.ndarray
  rotation: np.ndarray
  velocity: np.ndarray


class Frame(NamedTuple):
  """A keyframe.

  Attributes:
    token: of the sample.
    timestamp: microseconds.
    lidar: file of the cloud.
    sweeps: recordings before it, the newest first.
    cameras: in the order of `tables.CAMERAS`.
    lidar2ego: [4, 4].
    ego2global: [4, 4].
    objects: annotated boxes; none in the test set.
  """

  token: str
  timestamp: int
  lidar: epath.Path
  sweeps: tuple[Sweep, ...]
  cameras: tuple[Camera, ...]
  lidar2ego: np.ndarray
  ego2global: np.ndarray
  objects: Objects


def class_of(category: str) -> str:
  """The detection class of a category, or the category itself if it has none."""
  return _CLASSES.get(category, category)


def lidar2img(intrinsics: np.ndarray, lidar2cam: np.ndarray) -> np.ndarray:
  """[..., 4, 4]: homogeneous LiDAR coordinates -> (u d, v d, d, 1); of intrinsics [..., 3, 3]."""
  matrix = np.zeros((*intrinsics.shape[:-2], 4, 4))
  matrix[..., :3, :3] = intrinsics
  matrix[..., 3, 3] = 1
  return matrix @ lidar2cam


class NuScenes:
  """One version of the set on disk."""

  def __init__(self, root: str | os.PathLike, version: str = 'v1.0-mini'):
    """Reads the tables.

    Raises:
      UserError: see `tables.read_tables`.
    """
    self.root, self.version = epath.Path(root), version
    self.tables = read_tables(root, version)
    self._rows = {token: row for row, token in enumerate(self.tables.samples.token)}
    # Rows of each sample's annotations, in the order of the table.
    self._by_sample = np.argsort(self.tables.annotations.sample, kind='stable')
    self._starts = np.searchsorted(self.tables.annotations.sample[self._by_sample], np.arange(len(self._rows) + 1))
    self._classes = np.asarray([class_of(name) for name in self.tables.categories], object)

  def tokens(self, split: str | Sequence[str]) -> list[str]:
    """Samples of a split (see `splits.select_scenes`), scene by scene in the order of time."""
    scenes = select_scenes(split, tuple(self.tables.scenes), self.version)
    return [self.tables.samples.token[row] for name in scenes for row in self.tables.scenes[name]]

  def class_names(self, token: str) -> np.ndarray:
    """Classes [n] of all annotations of a sample, without reading anything else."""
    return self._classes[self.tables.annotations.category[self._objects_of(self._row(token))]]

  def frame(self, token: str, sweeps: int = 10) -> Frame:
    """One keyframe with up to `sweeps` earlier LiDAR recordings of its scene.

    Raises:
      UserError: if the token is unknown, or the sample has no LiDAR cloud or lacks one of the six pictures.
    """
    row = self._row(token)
    samples, recordings = self.tables.samples, self.tables.recordings
    missing = np.flatnonzero(samples.data[row] == NONE)
    if missing.size:
      raise UserError(f'sample_data.json has no keyframe of {CHANNELS[missing[0]]} for the sample {token}.')
    lidar, *cameras = samples.data[row]
    ego2global, lidar2ego = self._poses(lidar)
    to_global = ego2global @ lidar2ego
    to_key = geometry.inverse(to_global)

    def sensor_to_key(recording):
      vehicle, sensor = self._poses(recording)
      return to_key @ vehicle @ sensor

    earlier, previous = [], recordings.previous[lidar]
    while previous != NONE and len(earlier) < sweeps:
      dt = (recordings.timestamp[lidar] - recordings.timestamp[previous]) / 1e6
      earlier.append(Sweep(self.root / recordings.filename[previous], sensor_to_key(previous), float(dt)))
      previous = recordings.previous[previous]
    pictures = tuple(
      Camera(
        channel,
        self.root / recordings.filename[camera],
        recordings.intrinsics[camera],
        geometry.inverse(sensor_to_key(camera)),
        tuple(int(side) for side in recordings.size[camera]),
      )
      for channel, camera in zip(CAMERAS, cameras, strict=True)
    )
    return Frame(
      token,
      int(samples.timestamp[row]),
      self.root / recordings.filename[lidar],
      tuple(earlier),
      pictures,
      lidar2ego,
      ego2global,
      self._objects(row, to_key),
    )

  def ego_pose(self, token: str) -> np.ndarray:
    """The vehicle in the world [4, 4] when the LiDAR cloud of a sample was taken."""
    lidar = self.tables.samples.data[self._row(token), 0]
    if lidar == NONE:
      raise UserError(f'sample_data.json has no keyframe of {CHANNELS[0]} for the sample {token}.')
    return self._poses(lidar)[0]

  def objects(self, token: str) -> Objects:
    """The annotated boxes of a sample; those in the LiDAR frame are NaN, as no sensor is read."""
    return self._objects(self._row(token), None)

  def _poses(self, recording: int) -> tuple[np.ndarray, np.ndarray]:
    """Vehicle to world and sensor to vehicle, each at the recording's own time."""
    r = self.tables.recordings
    vehicle = geometry.pose(r.ego_rotation[recording], r.ego_translation[recording])
    return vehicle, geometry.pose(r.sensor_rotation[recording], r.sensor_translation[recording])

  def _row(self, token: str) -> int:
    if token not in self._rows:
      raise UserError(f'{self.version} has no sample {token!r}.')
    return self._rows[token]

  def _objects_of(self, row: int) -> np.ndarray:
    return self._by_sample[self._starts[row] : self._starts[row + 1]]

  def _objects(self, row: int, to_key: np.ndarray | None) -> Objects:
    table, rows = self.tables.annotations, self._objects_of(row)
    velocity = self._velocities(rows)
    boxes = np.full((len(rows), 9), np.nan)
    if to_key is not None:
      turn = to_key[:3, :3]
      boxes[:, :3] = geometry.transform(to_key, table.translation[rows])
      boxes[:, 3:6] = table.size[rows][:, [1, 0, 2]]
      boxes[:, 2] -= boxes[:, 5] / 2
      boxes[:, 6] = geometry.yaw_of(turn @ geometry.rotation_matrix(table.rotation[rows]))
      flat = np.concatenate([velocity[:, :2], np.zeros((len(rows), 1))], axis=1)
      boxes[:, 7:] = (flat @ turn.T)[:, :2]
    return Objects(
      boxes,
      self._classes[table.category[rows]].astype(str),
      table.lidar_points[rows],
      table.radar_points[rows],
      [table.attributes[i] for i in rows],
      table.translation[rows],
      table.size[rows],
      table.rotation[rows],
      velocity,
    )

  def _velocities(self, rows: np.ndarray) -> np.ndarray:
    """[n, 3] in the world, by the difference over the neighbouring keyframes of the same object."""
    table, seconds = self.tables.annotations, self.tables.samples.timestamp * 1e-6
    before, after = table.previous[rows], table.next[rows]
    first, last = np.where(before == NONE, rows, before), np.where(after == NONE, rows, after)
    moved = table.translation[last] - table.translation[first]
    time = seconds[table.sample[last]] - seconds[table.sample[first]]
    limit = np.where((before != NONE) & (after != NONE), 2 * MAX_GAP, MAX_GAP)
    known = (first != last) & (time <= limit) & (time > 0)
    return np.where(known[:, None], moved / np.where(known, time, 1)[:, None], np.nan)
