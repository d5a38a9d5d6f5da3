"""Detections as a nuScenes submission: a JSON of boxes in the world, and back."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from scipy.spatial.transform import Rotation

from jaxpapers.cmt import geometry
from jaxpapers.cmt.metrics import CLASSES, NO_ATTRIBUTE, BoxTable
from jaxpapers.engine.errors import UserError

MAX_BOXES = 500
"""Per sample."""
MOVING = 0.2
"""Metres per second above which an object counts as moving."""

RANGES = {
  'car': 50.0,
  'truck': 50.0,
  'bus': 50.0,
  'trailer': 50.0,
  'construction_vehicle': 50.0,
  'pedestrian': 40.0,
  'motorcycle': 40.0,
  'bicycle': 40.0,
  'traffic_cone': 30.0,
  'barrier': 30.0,
}
"""Metres from the vehicle within which each class counts."""

ATTRIBUTES = (
  'pedestrian.moving',
  'pedestrian.sitting_lying_down',
  'pedestrian.standing',
  'cycle.with_rider',
  'cycle.without_rider',
  'vehicle.moving',
  'vehicle.parked',
  'vehicle.stopped',
)

_IN_MOTION = {
  **dict.fromkeys(('car', 'construction_vehicle', 'bus', 'truck', 'trailer'), 'vehicle.moving'),
  **dict.fromkeys(('bicycle', 'motorcycle'), 'cycle.with_rider'),
  'pedestrian': 'pedestrian.moving',
}
_AT_REST = {
  **dict.fromkeys(('car', 'truck', 'trailer', 'construction_vehicle'), 'vehicle.parked'),
  'bus': 'vehicle.stopped',
  'pedestrian': 'pedestrian.standing',
  **dict.fromkeys(('motorcycle', 'bicycle'), 'cycle.without_rider'),
}


class Submission(NamedTuple):
  """A results file: the samples in its order, and all their boxes with `sample` an index into them."""

  tokens: list[str]
  boxes: BoxTable


def attribute_of(name: str, speed: float) -> str:
  """The attribute that goes with a class and a speed (m/s); '' for those without."""
  return (_IN_MOTION if speed > MOVING else _AT_REST).get(name, '')


def sample_results(
  token: str,
  lidar2ego: np.ndarray,
  ego2global: np.ndarray,
  boxes: np.ndarray,
  scores: np.ndarray,
  labels: np.ndarray,
) -> list[dict[str, Any]]:
  """The records of one sample: in the world, those beyond their class's range left out, the best `MAX_BOXES` at most.

  Source: nuScenes' format of detection results.

  Args:
    token: of the sample.
    lidar2ego: [4, 4].
    ego2global: [4, 4].
    boxes: [n, 9] in the LiDAR frame, x, y, z (bottom), l, w, h, yaw, vx, vy.
    scores: [n].
    labels: int [n], index into `metrics.CLASSES`.

  Raises:
    UserError: for a box that is not finite or has a size that is not positive, or an unknown label.
  """
  boxes, scores, labels = np.asarray(boxes, np.float64), np.asarray(scores, np.float64), np.asarray(labels)
  if boxes.shape != (len(scores), 9) or scores.shape != labels.shape:
    raise UserError(
      f'Boxes [n, 9], scores [n] and labels [n] are needed, not {boxes.shape}, {scores.shape}, {labels.shape}.'
    )
  bad = ~np.isfinite(boxes).all(1) | ~np.isfinite(scores) | (boxes[:, 3:6] <= 0).any(1)
  bad |= (labels < 0) | (labels >= len(CLASSES))
  for row in np.flatnonzero(bad)[:1]:
    raise UserError(
      f'Box {row} of the sample {token} is {boxes[row].tolist()}, label {labels[row]}, score {scores[row]}.'
    )
  to_global = ego2global @ lidar2ego
  center = boxes[:, :3] + np.stack([0 * boxes[:, 5], 0 * boxes[:, 5], boxes[:, 5] / 2], axis=-1)
  distance = np.linalg.norm(geometry.transform(lidar2ego, center)[:, :2], axis=1)
  center = geometry.transform(to_global, center)
  motion = np.concatenate([boxes[:, 7:], np.zeros((len(boxes), 1))], axis=1) @ to_global[:3, :3].T
  turns = to_global[:3, :3] @ geometry.rotation_matrix(geometry.yaw_quaternion(boxes[:, 6]))
  quaternion = np.roll(Rotation.from_matrix(turns.reshape(-1, 3, 3)).as_quat(), 1, axis=1) if len(turns) else turns
  limits = np.asarray([RANGES[name] for name in CLASSES])
  kept = [row for row in np.argsort(-scores, kind='stable') if distance[row] <= limits[labels[row]]][:MAX_BOXES]
  return [
    {
      'sample_token': token,
      'translation': center[row].tolist(),
      'size': boxes[row, [4, 3, 5]].tolist(),
      'rotation': quaternion[row].tolist(),
      'velocity': motion[row, :2].tolist(),
      'detection_name': CLASSES[labels[row]],
      'detection_score': float(scores[row]),
      'attribute_name': attribute_of(CLASSES[labels[row]], float(np.linalg.norm(motion[row, :2]))),
    }
    for row in kept
  ]


def write_submission(
  path: str | os.PathLike,
  results: Mapping[str, Sequence[Mapping[str, Any]]],
  use_camera: bool = True,
  use_lidar: bool = True,
) -> None:
  """Writes the records of every sample; the file appears when it is whole. Source: nuScenes' format."""
  meta = {'use_camera': use_camera, 'use_lidar': use_lidar, 'use_radar': False, 'use_map': False, 'use_external': False}
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.parent / f'{path.name}.tmp'
  part.write_text(json.dumps({'meta': meta, 'results': dict(results)}))
  part.replace(path)


def read_submission(path: str | os.PathLike) -> Submission:
  """Reads and checks a results file. Source: nuScenes' format.

  Raises:
    UserError: naming what is missing or wrong: the file, a field, a class, an attribute, a number, too many boxes.
  """
  try:
    content = json.loads(epath.Path(path).read_bytes())
  except FileNotFoundError:
    raise UserError(f'No file {path}: name the JSON of a submission.') from None
  except ValueError as error:
    raise UserError(f'{path} is no complete JSON file: {error}.') from None
  if not isinstance(content, dict) or not isinstance(content.get('results'), dict):
    raise UserError(f"{path} has no 'results': it is no nuScenes submission.")
  results = content['results']
  for token, records in results.items():
    if not isinstance(records, list):
      raise UserError(f'{path}: the results of {token} are no list of boxes.')
    if len(records) > MAX_BOXES:
      raise UserError(f'{path}: the sample {token} has {len(records)} boxes; at most {MAX_BOXES} are allowed.')
  records = [record for sample in results.values() for record in sample]
  sample = np.repeat(np.arange(len(results)), [len(sample) for sample in results.values()])

  def column(field, shape):
    try:
      return np.asarray([record[field] for record in records], np.float64).reshape(len(records), *shape)
    except (KeyError, TypeError, ValueError):
      raise UserError(f'{path}: {_first_bad(results, field, shape)}') from None

  def names(field, known):
    index = {name: number for number, name in enumerate(known)}
    found = [index.get(record.get(field), -2) if field in record else -2 for record in records]
    if -2 in found:
      row = found.index(-2)
      value = records[row].get(field)
      raise UserError(
        f'{path}: a box of {list(results)[sample[row]]} has the {field} {value!r}; known: {", ".join(known)}.'
      )
    return np.asarray(found, np.int64)

  attribute = names('attribute_name', (*ATTRIBUTES, ''))
  boxes = BoxTable(
    sample=sample,
    center=column('translation', (3,)),
    size=column('size', (3,)),
    yaw=geometry.yaw_of(geometry.rotation_matrix(_rotations(path, column('rotation', (4,))))),
    velocity=column('velocity', (2,)),
    label=names('detection_name', CLASSES),
    attribute=np.where(attribute == len(ATTRIBUTES), NO_ATTRIBUTE, attribute),
    score=column('detection_score', ()),
  )
  return Submission(list(results), boxes)


def _rotations(path: str | os.PathLike, values: np.ndarray) -> np.ndarray:
  if not (np.isfinite(values).all() and values.any(axis=1).all()):
    raise UserError(f'{path}: a rotation is no quaternion (w, x, y, z).')
  return values


def _first_bad(results: Mapping[str, Any], field: str, shape: tuple[int, ...]) -> str:
  """What is wrong with the first box whose field has no numbers of that shape."""
  for token, records in results.items():
    for record in records:
      if not isinstance(record, dict) or field not in record:
        return f'a box of {token} has no {field!r}.'
      try:
        np.asarray(record[field], np.float64).reshape(shape)
      except (TypeError, ValueError):
        return f'{field!r} of a box of {token} is {record[field]!r}.'
  return f'{field!r} of the boxes differ in shape.'
