"""Reference outputs of the data and the metrics: scores, nuScenes tables, augmentations."""

import contextlib
import json
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from jaxpapers.cmt import augment, boxes, evaluation, metrics, nuscenes, sweeps
from tests.golden import Check, group, load

SUPPORT = ('*nuscenes*.zip', '*_results.json')


def metric(path: Path) -> Iterable[Check]:
  data, meta = load(path)
  rules = metrics.nuscenes_rules(meta['classes'])._replace(
    thresholds=tuple(meta['dist_ths']),
    error_threshold=meta['dist_th_tp'],
    min_recall=meta['min_recall'],
    min_precision=meta['min_precision'],
  )

  def table(name):
    rows = group(data, f'input/{name}')
    return metrics.BoxTable(
      *(rows[key] for key in ('sample', 'translation', 'size_wlh', 'yaw', 'velocity', 'class', 'attribute')),
      rows.get('score'),
    )

  scores = metrics.evaluate(table('gt'), table('pred'), rules)
  got = {
    'ap': scores.ap,
    'tp': scores.errors,
    'mean_ap': scores.mean_ap,
    'tp_errors': scores.mean_errors,
    'tp_scores': np.maximum(0, 1 - scores.mean_errors),
    'nds': scores.nds,
    **{f'curve/{name}': curve for name, curve in scores.curves.items()},
  }
  for name, want in group(data, 'output').items():
    yield Check(name, got[name], want, 1e-9)


@contextlib.contextmanager
def unpacked(path: Path) -> Iterator[nuscenes.NuScenes]:
  """The set of the zip beside a case."""
  archive = path.with_name(path.stem.rsplit('_', 1)[0] + '.zip')
  with tempfile.TemporaryDirectory() as folder:
    with zipfile.ZipFile(archive) as file:
      file.extractall(folder)
    yield nuscenes.NuScenes(folder, next(p.name for p in Path(folder).iterdir() if p.name.startswith('v1.0')))


def tables(path: Path) -> Iterable[Check]:
  data, meta = load(path)
  with unpacked(path) as dataset:
    version = dataset.version.removeprefix('v1.0-')
    prefix = 'mini_' if version == 'mini' else ''
    splits = dict.fromkeys(split for split, _ in meta['order'])
    for split in splits:
      wanted = [token for name, token in meta['order'] if name == split]
      yield Check(f'{split}/order', dataset.tokens(prefix + split), wanted, 0)
      for number, token in enumerate(wanted):
        frame = dataset.frame(token)
        points = sweeps.aggregate(frame)
        cameras = frame.cameras
        matrices = nuscenes.lidar2img(
          np.stack([camera.intrinsics for camera in cameras]), np.stack([camera.lidar2cam for camera in cameras])
        )
        objects = frame.objects
        got = {
          'gt_boxes': (boxes.to_gravity(objects.boxes)[:, :7], 1e-5),
          'gt_velocity': (objects.boxes[:, 7:], 1e-5),
          'gt_names': (objects.names, 0),
          'num_lidar_pts': (objects.lidar_points, 0),
          'num_radar_pts': (objects.radar_points, 0),
          'valid_flag': (objects.lidar_points + objects.radar_points > 0, 0),
          'timestamp': (frame.timestamp, 0),
          'n_sweeps': (len(frame.sweeps), 0),
          'lidar2img': (matrices, 1e-5),
          'points_count': (len(points), 0),
          'points_every_7th': (points[::7], 1e-4),
          'points_mean': (points.mean(0, dtype=np.float64), 1e-4),
        }
        for name, want in group(data, f'output/{split}/{number}').items():
          value, tolerance = got[name]
          yield Check(f'{split}/{number}/{name}', value, want, tolerance, relative=tolerance == 1e-5)


def flatten(content: Mapping, prefix: str = '') -> dict[str, float]:
  found = {}
  for name, value in content.items():
    found |= flatten(value, f'{prefix}{name}/') if isinstance(value, Mapping) else {prefix + name: value}
  return found


def official_numbers(path: Path) -> Iterable[Check]:
  want = {k: v for k, v in flatten(json.loads(path.read_text())).items() if isinstance(v, float | int)}
  with unpacked(path) as dataset:
    split = 'mini_val' if dataset.version == 'v1.0-mini' else 'val'
    results = path.with_name(path.name.replace('_metrics', '_results'))
    got = flatten(evaluation.evaluate_submission(dataset, split, results))
  skipped = {name for name in want if name.split('/')[0] in ('cfg', 'meta', 'eval_time')}
  for name in want.keys() - skipped:
    yield Check(name, got[name], want[name], 1e-9)


def augmentation(path: Path) -> Iterable[Check]:
  data, meta = load(path)
  size = tuple(meta['final_dim'])
  for case in sorted({name.split('/')[1] for name in data}, key=int):
    given, want = group(data, f'input/{case}'), group(data, f'output/{case}')
    flip_y, flip_x = given['draw_flip_h_v']
    bev = augment.BevDraw(*given['draw_rot_scale'], given['draw_translation'], flip_y, flip_x)
    left, top = given['draw_crop_xyxy'][:2]
    image = augment.ImageDraw(given['draw_resize'][0], left, top, given['draw_img_flip'])
    lidar2cam = augment.bev_cameras(bev, given['lidar2cam'])
    intrinsics = given['cam_intrinsic'][:, :3, :3]
    moved = augment.bev_boxes(bev, given['boxes'])
    got = {
      'points': (augment.bev_points(bev, given['points']), 1e-4),
      'boxes': (moved, 1e-4),
      'corners': (boxes.corners(moved), 1e-4),
      'lidar2img_after_bev_aug': (nuscenes.lidar2img(intrinsics, lidar2cam), 1e-5),
      'lidar2img': (nuscenes.lidar2img(augment.image_matrix(image, size) @ intrinsics, lidar2cam), 1e-5),
      'img0': (augment.transform_image(given['img0'], image, size), 1e-3),
    }
    for name, wanted in want.items():
      value, tolerance = got[name]
      yield Check(f'{case}/{name}', value, wanted, tolerance, relative=tolerance == 1e-5)


HANDLERS = {
  'metric_': metric,
  'tiny_nuscenes': lambda path: (official_numbers if path.suffix == '.json' else tables)(path),
  'augment': augmentation,
}
