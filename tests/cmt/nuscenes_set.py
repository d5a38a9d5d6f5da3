"""Writes a small set in the layout of nuScenes whose answers are known: the vehicle drives past fixed landmarks."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

VERSION = 'v1.0-mini'
CHANNELS = (
  'LIDAR_TOP',
  'CAM_FRONT',
  'CAM_FRONT_RIGHT',
  'CAM_FRONT_LEFT',
  'CAM_BACK',
  'CAM_BACK_LEFT',
  'CAM_BACK_RIGHT',
)
HEADINGS = (None, 0, -60, 60, 180, 120, -120)
SIZE = (96, 128)
SCENES = ('scene-0061', 'scene-0103')
FRAMES = 3
SWEEPS = 2
"""Recordings between keyframes."""
SPEED = np.asarray([4.0, 2.0, 0.0])
CATEGORIES = ('vehicle.car', 'human.pedestrian.adult', 'vehicle.bicycle', 'static_object.bicycle_rack', 'animal')
ATTRIBUTES = ('vehicle.moving', 'pedestrian.standing', 'cycle.without_rider', 'vehicle.parked')
# Category, world place at time 0, velocity, size (w, l, h), yaw, attribute.
OBJECTS = (
  (0, (12, 3, 1), (3, 0, 0), (2, 4.5, 1.6), 0.4, 0),
  (0, (-9, -14, 1), (0, 0, 0), (1.9, 4.2, 1.5), -2.0, 3),
  (1, (6, -7, 1), (0, 1, 0), (0.7, 0.8, 1.8), 1.2, 1),
  (2, (20, 8, 0.7), (0, 0, 0), (0.6, 1.7, 1.2), 0.3, 2),
  (3, (20, 8, 0.7), (0, 0, 0), (4.0, 4.0, 2.0), 0.3, None),
  (4, (5, 15, 0.4), (0, 0, 0), (0.5, 0.9, 0.8), 0.0, None),
)
LANDMARKS = np.random.default_rng(0).uniform([-25, -25, 0], [35, 25, 2.5], (300, 3))


def vehicle(seconds: float) -> tuple[Rotation, np.ndarray]:
  """Where the vehicle is in the world."""
  return Rotation.from_euler('z', 0.3 + 0.2 * seconds), np.asarray([1.0, -2.0, 0.0]) + SPEED * seconds


def mount(channel: int) -> tuple[Rotation, np.ndarray]:
  """Where a sensor is on the vehicle."""
  if channel == 0:
    return Rotation.from_euler('zyx', [-1.5, 0.01, -0.02]), np.asarray([0.9, 0.0, 1.8])
  forward = Rotation.from_matrix([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])
  return Rotation.from_euler('z', HEADINGS[channel], degrees=True) * forward, np.asarray([1.0, 0.1 * channel, 1.5])


def to_sensor(points: np.ndarray, channel: int, seconds: float) -> np.ndarray:
  """World points in a sensor's frame."""
  (turn, place), (tilt, offset) = vehicle(seconds), mount(channel)
  return tilt.inv().apply(turn.inv().apply(points - place) - offset)


def quaternion(rotation: Rotation) -> list[float]:
  return np.roll(rotation.as_quat(), 1).tolist()


def intrinsics() -> list[list[float]]:
  return [[70.0, 0, SIZE[1] / 2], [0, 70.0, SIZE[0] / 2], [0, 0, 1]]


def world_points(seconds: float) -> np.ndarray:
  """Landmarks, then ten points inside every object."""
  rng = np.random.default_rng(1)
  clouds = [LANDMARKS]
  for _, place, velocity, size, yaw, _ in OBJECTS:
    local = rng.uniform(-0.45, 0.45, (10, 3)) * np.asarray(size)[[1, 0, 2]]
    turned = Rotation.from_euler('z', yaw).apply(local)
    clouds.append(turned + place + np.asarray(velocity) * seconds)
  return np.concatenate(clouds)


def write(root: Path, scenes: tuple[str, ...] = SCENES) -> Path:
  """Writes the set; scenes start a minute apart and look alike."""
  tables = {name: [] for name in ('scene', 'sample', 'sample_data', 'ego_pose', 'sample_annotation', 'instance')}
  tables['visibility'] = [{'token': '1'}]
  root.mkdir(parents=True, exist_ok=True)
  tables['log'] = [{'token': 'log', 'location': 'nowhere'}]
  tables['map'] = [{'token': 'map', 'log_tokens': ['log'], 'category': 'none', 'filename': 'map.png'}]
  Image.fromarray(np.zeros((8, 8), np.uint8)).save(root / 'map.png')
  tables['sensor'] = [{'token': f's-{c}', 'channel': c, 'modality': 'any'} for c in CHANNELS]
  tables['sensor'].append({'token': 's-radar', 'channel': 'RADAR_FRONT', 'modality': 'radar'})
  tables['category'] = [{'token': f'c-{c}', 'name': c} for c in CATEGORIES]
  tables['attribute'] = [{'token': f'a-{a}', 'name': a} for a in ATTRIBUTES]
  mounts = [(c, *mount(k), intrinsics() if k else []) for k, c in enumerate(CHANNELS)]
  mounts.append(('radar', *mount(0), []))
  tables['calibrated_sensor'] = [
    {
      'token': f'm-{name}',
      'sensor_token': f's-{name}',
      'translation': place.tolist(),
      'rotation': quaternion(turn),
      'camera_intrinsic': matrix,
    }
    for name, turn, place, matrix in mounts
  ]
  for folder in (VERSION, 'samples', 'sweeps'):
    (root / folder).mkdir(parents=True, exist_ok=True)
  for number, name in enumerate(scenes):
    _scene(root, tables, name, 60.0 * number)
  for name, records in tables.items():
    (root / VERSION / f'{name}.json').write_text(json.dumps(records))
  return root


def _scene(root: Path, tables: dict, name: str, begin: float) -> None:
  def sample(frame):
    return f'{name}-{frame}' if 0 <= frame < FRAMES else ''

  tables['scene'].append(
    {
      'token': name,
      'name': name,
      'nbr_samples': FRAMES,
      'first_sample_token': sample(0),
      'last_sample_token': sample(FRAMES - 1),
      'log_token': 'log',
    }
  )
  steps = (FRAMES - 1) * (SWEEPS + 1) + 1
  for step in range(steps):
    seconds = 0.5 * step / (SWEEPS + 1)
    frame, rest = divmod(step, SWEEPS + 1)
    key = rest == 0
    micro = round((begin + seconds) * 1e6)
    if key:
      links = {'prev': sample(frame - 1), 'next': sample(frame + 1), 'scene_token': name}
      tables['sample'].append({'token': sample(frame), 'timestamp': micro, **links})
      _annotate(tables, name, sample(frame), frame, seconds)
    for channel, sensor in enumerate((*CHANNELS, 'radar')):
      if not key and sensor != 'LIDAR_TOP':
        continue
      # Cameras lag a little: poses must be taken at each recording's own time.
      when = seconds + 0.01 * channel
      token, ending = f'{name}-{step}-{sensor}', 'pcd.bin' if channel == 0 else 'jpg'
      file = f'{"samples" if key else "sweeps"}/{token}.{ending}'
      turn, place = vehicle(when)
      tables['ego_pose'].append(
        {'token': f'e-{token}', 'timestamp': micro, 'translation': place.tolist(), 'rotation': quaternion(turn)}
      )
      tables['sample_data'].append(
        {
          'token': token,
          'sample_token': sample(frame if key else frame + 1),
          'ego_pose_token': f'e-{token}',
          'calibrated_sensor_token': f'm-{sensor}',
          'timestamp': micro + 10_000 * channel,
          'fileformat': ending,
          'is_key_frame': key,
          'height': SIZE[0] if channel else 0,
          'width': SIZE[1] if channel else 0,
          'filename': file,
          'prev': f'{name}-{step - 1}-{sensor}' if channel == 0 and step else '',
          'next': f'{name}-{step + 1}-{sensor}' if channel == 0 and step + 1 < steps else '',
        }
      )
      if channel == 0:
        points = to_sensor(world_points(seconds), 0, seconds)
        rows = np.concatenate([points, np.full((len(points), 1), 7.0), np.zeros((len(points), 1))], axis=1)
        rows.astype('<f4').tofile(root / file)
      elif sensor != 'radar':
        shade = np.linspace(0, 200, SIZE[1])[None, :, None] + np.asarray([0, 20, 40.0])
        picture = np.broadcast_to(shade, (*SIZE, 3)).astype(np.uint8)
        Image.fromarray(picture).save(root / file, quality=95)


def _annotate(tables: dict, scene: str, sample: str, frame: int, seconds: float) -> None:
  for number, (category, place, velocity, size, yaw, attribute) in enumerate(OBJECTS):
    instance = f'{scene}-object-{number}'
    if frame == 0:
      tables['instance'].append({'token': instance, 'category_token': f'c-{CATEGORIES[category]}'})
    tables['sample_annotation'].append(
      {
        'token': f'{instance}-{frame}',
        'sample_token': sample,
        'instance_token': instance,
        'visibility_token': '1',
        'attribute_tokens': [] if attribute is None else [f'a-{ATTRIBUTES[attribute]}'],
        'translation': (np.asarray(place) + np.asarray(velocity) * seconds).tolist(),
        'size': list(size),
        'rotation': quaternion(Rotation.from_euler('z', yaw)),
        'prev': f'{instance}-{frame - 1}' if frame else '',
        'next': f'{instance}-{frame + 1}' if frame + 1 < FRAMES else '',
        'num_lidar_pts': 10,
        'num_radar_pts': 0,
      }
    )
