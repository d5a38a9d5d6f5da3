"""The relational tables of nuScenes as columns: JSON lists whose records name each other by token.

Every link is resolved and checked once, to row numbers; what detection does not use (radar, camera pictures between
keyframes, maps) is left out as the tables are read.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from jaxpapers.cmt import json_stream
from jaxpapers.engine.errors import UserError

TABLES = (
  'scene',
  'sample',
  'sample_data',
  'ego_pose',
  'calibrated_sensor',
  'sensor',
  'sample_annotation',
  'instance',
  'category',
  'attribute',
  'visibility',
  'log',
  'map',
)
LIDAR = 'LIDAR_TOP'
CAMERAS = ('CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_FRONT_LEFT', 'CAM_BACK', 'CAM_BACK_LEFT', 'CAM_BACK_RIGHT')
"""The six cameras, in the order of CMT's batches."""
CHANNELS = (LIDAR, *CAMERAS)
NONE = -1
"""A link to nothing."""

Records = Sequence[Mapping[str, Any]]


class Samples(NamedTuple):
  """Keyframes.

  Attributes:
    token: names.
    timestamp: int64 [n], microseconds.
    data: int [n, channels], rows of the recordings of `CHANNELS`, `NONE` where missing.
  """

  token: list[str]
  timestamp: np.ndarray
  data: np.ndarray


class Recordings(NamedTuple):
  """Recordings of LIDAR_TOP, and of the cameras at keyframes.

  Attributes:
    filename: relative to the root.
    timestamp: int64 [n], microseconds.
    previous: int [n], the recording of the same sensor before this one; of LiDAR only.
    size: int [n, 2], height and width of a picture.
    ego_rotation: [n, 4], quaternion of the vehicle in the world.
    ego_translation: [n, 3], metres.
    sensor_rotation: [n, 4], quaternion of the sensor in the vehicle.
    sensor_translation: [n, 3], metres.
    intrinsics: [n, 3, 3]; NaN for LiDAR.
  """

  filename: list[str]
  timestamp: np.ndarray
  previous: np.ndarray
  size: np.ndarray
  ego_rotation: np.ndarray
  ego_translation: np.ndarray
  sensor_rotation: np.ndarray
  sensor_translation: np.ndarray
  intrinsics: np.ndarray


class Annotations(NamedTuple):
  """Boxes in the world.

  Attributes:
    sample: int [n].
    translation: [n, 3], gravity centre, metres.
    size: [n, 3], width, length, height.
    rotation: [n, 4].
    previous: int [n], the same object one keyframe before; likewise `next`.
    next: see previous.
    lidar_points: int [n], points inside; likewise `radar_points`.
    radar_points: see lidar_points.
    category: int [n], index into the tables' categories.
    attributes: names of each box's attributes.
  """

  sample: np.ndarray
  translation: np.ndarray
  size: np.ndarray
  rotation: np.ndarray
  previous: np.ndarray
  next: np.ndarray
  lidar_points: np.ndarray
  radar_points: np.ndarray
  category: np.ndarray
  attributes: list[tuple[str, ...]]


class Tables(NamedTuple):
  """What `read_tables` gives; `scenes` maps names to rows of samples in the order of time."""

  scenes: dict[str, tuple[int, ...]]
  samples: Samples
  recordings: Recordings
  annotations: Annotations
  categories: tuple[str, ...]


def read_tables(root: str | os.PathLike, version: str) -> Tables:
  """Reads `root/version/*.json`.

  Raises:
    UserError: naming a missing folder or table, a damaged file, a record without a field or with a wrong value, or a
      link to a record that is not there.
  """
  folder = epath.Path(root) / version
  if not folder.is_dir():
    raise UserError(
      f'No folder {folder}: the root of nuScenes holds samples/, sweeps/ and {version}/ with the tables; '
      'download it from nuscenes.org.'
    )
  for name in TABLES:
    if not (folder / f'{name}.json').exists():
      raise UserError(f'{folder / name}.json is missing; a nuScenes version has {len(TABLES)} tables.')
  reader = _Reader(folder)
  samples, rows = _samples(reader)
  recordings, data = _recordings(reader, rows)
  scenes = _scenes(reader, samples, rows)
  annotations, categories = _annotations(reader, rows)
  columns = Samples([r['token'] for r in samples], _numbers('sample', samples, 'timestamp', (), np.int64), data)
  return Tables(scenes, columns, recordings, annotations, categories)


class _Reader:
  """Reads tables of a folder."""

  def __init__(self, folder: epath.Path):
    self._folder = folder

  def __call__(
    self, name: str, fields: Sequence[str], keep: Callable[[Mapping[str, Any]], bool] | None = None
  ) -> tuple[Records, dict[str, int]]:
    """The records that are kept, with these fields and their token, and the row of every token."""
    path = self._folder / f'{name}.json'
    fields, kept = ('token', *fields), []
    rows: dict[str, int] = {}
    for number, record in enumerate(json_stream.records(path)):
      for field in fields:
        if field not in record:
          raise UserError(f'{path}: record {record.get("token", number)} has no {field!r}.')
      token = record['token']
      if not isinstance(token, str) or token in rows:
        problem = 'occurs twice' if isinstance(token, str) else f'of record {number} is no text'
        raise UserError(f'{path}: the token {token} {problem}.')
      if keep is None or keep(record):
        rows[token] = len(kept)
        kept.append({field: record[field] for field in fields})
    return kept, rows


def _samples(reader: _Reader) -> tuple[Records, dict[str, int]]:
  return reader('sample', ('timestamp', 'scene_token', 'prev', 'next'))


def _scenes(reader: _Reader, samples: Records, rows: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
  """Follows the chain of keyframes of every scene."""
  found, _ = reader('scene', ('name', 'first_sample_token', 'last_sample_token', 'nbr_samples'))
  scenes = {}
  for record in found:
    chain, token, source = [], record['first_sample_token'], ('scene', record)
    while token and len(chain) <= len(samples):
      chain.append(_row(rows, token, 'sample', *source))
      source = 'sample', samples[chain[-1]]
      token = source[1]['next']
    count, last = record['nbr_samples'], record['last_sample_token']
    if len(chain) != count or source[1]['token'] != last:
      raise UserError(
        f'scene.json: {record["name"]} should have {count} samples up to {last}, but its chain in sample.json has '
        f'{len(chain)}.'
      )
    scenes[record['name']] = tuple(chain)
  return scenes


def _recordings(reader: _Reader, sample_rows: Mapping[str, int]) -> tuple[Recordings, np.ndarray]:
  sensors, sensor_rows = reader('sensor', ('channel',))
  mounts, mount_rows = reader('calibrated_sensor', ('sensor_token', 'translation', 'rotation', 'camera_intrinsic'))
  channels = [
    sensors[_row(sensor_rows, m['sensor_token'], 'sensor', 'calibrated_sensor', m)]['channel'] for m in mounts
  ]

  def wanted(record):
    name = channels[_row(mount_rows, record['calibrated_sensor_token'], 'calibrated_sensor', 'sample_data', record)]
    return name == LIDAR or (name in CAMERAS and record['is_key_frame'])

  fields = ('sample_token', 'ego_pose_token', 'calibrated_sensor_token', 'timestamp', 'is_key_frame', 'filename')
  kept, rows = reader('sample_data', (*fields, 'prev', 'height', 'width'), wanted)
  channel = [CHANNELS.index(channels[mount_rows[record['calibrated_sensor_token']]]) for record in kept]
  data = np.full((len(sample_rows), len(CHANNELS)), NONE)
  previous = np.full(len(kept), NONE)
  for number, record in enumerate(kept):
    sample = _row(sample_rows, record['sample_token'], 'sample', 'sample_data', record)
    if record['is_key_frame']:
      data[sample, channel[number]] = number
    if channel[number] == 0 and record['prev']:
      previous[number] = _row(rows, record['prev'], 'sample_data', 'sample_data', record)
  needed = {record['ego_pose_token'] for record in kept}
  poses, pose_rows = reader('ego_pose', ('translation', 'rotation'), lambda record: record['token'] in needed)
  poses = [poses[_row(pose_rows, r['ego_pose_token'], 'ego_pose', 'sample_data', r)] for r in kept]
  mounts = [mounts[mount_rows[r['calibrated_sensor_token']]] for r in kept]
  cameras = np.flatnonzero(channel)
  intrinsics = np.full((len(kept), 3, 3), np.nan)
  used = [mounts[i] for i in cameras]
  intrinsics[cameras] = _numbers('calibrated_sensor', used, 'camera_intrinsic', (3, 3))
  for number in cameras[np.linalg.det(intrinsics[cameras]) == 0][:1]:
    raise UserError(f'calibrated_sensor.json: the camera_intrinsic of {mounts[number]["token"]} has no inverse.')
  recordings = Recordings(
    filename=[record['filename'] for record in kept],
    timestamp=_numbers('sample_data', kept, 'timestamp', (), np.int64),
    previous=previous,
    size=np.asarray([(r['height'] or 0, r['width'] or 0) for r in kept], int).reshape(-1, 2),
    ego_rotation=_quaternions('ego_pose', poses),
    ego_translation=_numbers('ego_pose', poses, 'translation', (3,)),
    sensor_rotation=_quaternions('calibrated_sensor', mounts),
    sensor_translation=_numbers('calibrated_sensor', mounts, 'translation', (3,)),
    intrinsics=intrinsics,
  )
  return recordings, data


def _annotations(reader: _Reader, sample_rows: Mapping[str, int]) -> tuple[Annotations, tuple[str, ...]]:
  categories, category_rows = reader('category', ('name',))
  attributes, attribute_rows = reader('attribute', ('name',))
  instances, instance_rows = reader('instance', ('category_token',))
  kinds = [_row(category_rows, i['category_token'], 'category', 'instance', i) for i in instances]
  fields = ('sample_token', 'instance_token', 'attribute_tokens', 'translation', 'size', 'rotation', 'prev', 'next')
  name = 'sample_annotation'
  records, rows = reader(name, (*fields, 'num_lidar_pts', 'num_radar_pts'))

  def attribute_names(record):
    if not isinstance(record['attribute_tokens'], list):
      raise UserError(f"{name}.json: 'attribute_tokens' of {record['token']} must be a list.")
    found = (_row(attribute_rows, token, 'attribute', name, record) for token in record['attribute_tokens'])
    return tuple(attributes[row]['name'] for row in found)

  def neighbours(field):
    return np.asarray([_row(rows, r[field], name, name, r) if r[field] else NONE for r in records], int)

  size = _numbers(name, records, 'size', (3,))
  for row in np.flatnonzero((size <= 0).any(1))[:1]:
    raise UserError(f'{name}.json: the size of {records[row]["token"]} is {size[row].tolist()}; it must be positive.')
  columns = Annotations(
    sample=np.asarray([_row(sample_rows, r['sample_token'], 'sample', name, r) for r in records], int),
    translation=_numbers(name, records, 'translation', (3,)),
    size=size,
    rotation=_quaternions(name, records),
    previous=neighbours('prev'),
    next=neighbours('next'),
    lidar_points=_numbers(name, records, 'num_lidar_pts', (), np.int64),
    radar_points=_numbers(name, records, 'num_radar_pts', (), np.int64),
    category=np.asarray([kinds[_row(instance_rows, r['instance_token'], 'instance', name, r)] for r in records], int),
    attributes=[attribute_names(record) for record in records],
  )
  return columns, tuple(category['name'] for category in categories)


def _row(rows: Mapping[str, int], token: str, target: str, table: str, record: Mapping[str, Any]) -> int:
  """The row of a token, which `record` of `table` names."""
  row = rows.get(token) if isinstance(token, str) else None
  if row is None:
    raise UserError(f'{table}.json: {record["token"]} names the {target} {token!r}, which {target}.json does not have.')
  return row


def _quaternions(table: str, records: Records) -> np.ndarray:
  values = _numbers(table, records, 'rotation', (4,))
  for row in np.flatnonzero(~values.any(1))[:1]:
    raise UserError(
      f'{table}.json: the rotation of {records[row]["token"]} is zero; it must be a quaternion (w, x, y, z).'
    )
  return values


def _numbers(table: str, records: Records, field: str, shape: tuple[int, ...], dtype: Any = np.float64) -> np.ndarray:
  """[records, *shape] of a field."""
  try:
    values = np.asarray([record[field] for record in records], dtype).reshape(len(records), *shape)
  except (ValueError, TypeError, OverflowError):
    values = None
  if values is None or not np.isfinite(values).all():
    for record in records:
      try:
        good = np.isfinite(np.asarray(record[field], dtype).reshape(shape)).all()
      except (ValueError, TypeError, OverflowError):
        good = False
      if not good:
        what = f'numbers of shape {shape}' if shape else 'a number'
        raise UserError(f'{table}.json: {field!r} of {record["token"]} is {record[field]!r}; it must be {what}.')
  return values
