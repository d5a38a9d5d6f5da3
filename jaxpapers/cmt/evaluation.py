"""Evaluates a nuScenes submission against the tables:

python -m jaxpapers.cmt.evaluation results.json --root /data/nuscenes --version v1.0-trainval --split val
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxpapers.cmt import geometry, metrics
from jaxpapers.cmt.boxes import points_in_boxes
from jaxpapers.cmt.metrics import CLASSES, BoxTable
from jaxpapers.cmt.nuscenes import NuScenes, Objects
from jaxpapers.cmt.submission import ATTRIBUTES, RANGES, read_submission
from jaxpapers.engine.errors import UserError

RACK = 'static_object.bicycle_rack'
PARKED = ('bicycle', 'motorcycle')
"""Classes that do not count inside a rack."""

_RULES = metrics.nuscenes_rules()
_LIMITS = np.asarray([RANGES[name] for name in CLASSES])


def evaluate_submission(dataset: NuScenes, split: str | Sequence[str], path: str | os.PathLike) -> dict[str, Any]:
  """The official numbers of a results file, as a mapping with the official names.

  Args:
    dataset: with annotations.
    split: whose samples the file must hold, all of them and no other.
    path: of the JSON.

  Raises:
    UserError: for a damaged file, samples that are missing or of another split, or a set without annotations.
  """
  submission = read_submission(path)
  tokens = dataset.tokens(split)
  missing, strange = sorted(set(tokens) - set(submission.tokens)), sorted(set(submission.tokens) - set(tokens))
  for these, problem in ((missing, 'lacks'), (strange, 'holds, beside the split,')):
    if these:
      raise UserError(
        f'{path} {problem} {len(these)} samples, such as {these[0]} (split {split!r}, {dataset.version}).'
      )
  objects = [dataset.objects(token) for token in submission.tokens]
  if not sum(len(found.names) for found in objects):
    raise UserError(f'{dataset.version} has no annotations for the split {split!r}: nothing can be evaluated.')
  egos = np.stack([dataset.ego_pose(token)[:2, 3] for token in submission.tokens])
  truth, seen = ground_truth(objects)
  truth = _keep(truth, seen & _counts(truth, egos, objects))
  predictions = _keep(submission.boxes, _counts(submission.boxes, egos, objects))
  counts = {'n_gt_after_filter': len(truth.label), 'n_pred_after_filter': len(predictions.label)}
  return {**named(metrics.evaluate(truth, predictions, _RULES)), **counts}


def ground_truth(objects: Sequence[Objects]) -> tuple[BoxTable, np.ndarray]:
  """Annotated boxes of detection classes, in the world, and which of them a LiDAR or radar point hits.

  Args:
    objects: of each sample.

  Raises:
    UserError: for an object with more than one attribute.
  """
  index = {name: number for number, name in enumerate(CLASSES)}
  attributes = {name: number for number, name in enumerate(ATTRIBUTES)}
  rows, seen = [], []
  for number, found in enumerate(objects):
    keep = np.flatnonzero(np.isin(found.names, CLASSES))
    if any(len(found.attributes[i]) > 1 for i in keep):
      raise UserError('sample_annotation.json: an object has more than one attribute.')
    names = [(found.attributes[i] or ('',))[0] for i in keep]
    rows.append(
      BoxTable(
        np.full(len(keep), number),
        found.translation[keep],
        found.size[keep],
        geometry.yaw_of(geometry.rotation_matrix(found.rotation[keep])),
        found.velocity[keep, :2],
        np.asarray([index[found.names[i]] for i in keep], np.int64),
        np.asarray([attributes.get(name, metrics.NO_ATTRIBUTE) for name in names], np.int64),
      )
    )
    seen.append(found.lidar_points[keep] + found.radar_points[keep] > 0)
  return metrics.concatenate(rows), np.concatenate(seen)


def named(scores: metrics.Scores) -> dict[str, Any]:
  """Scores as the official tool's JSON."""
  by_class = scores.ap.mean(-1)
  credit = np.maximum(0, 1 - scores.mean_errors)
  return {
    'label_aps': {
      name: {str(threshold): float(ap) for threshold, ap in zip(_RULES.thresholds, row, strict=True)}
      for name, row in zip(CLASSES, scores.ap, strict=True)
    },
    'mean_dist_aps': dict(zip(CLASSES, by_class.tolist(), strict=True)),
    'mean_ap': scores.mean_ap,
    'label_tp_errors': {
      name: dict(zip(metrics.ERRORS, row.tolist(), strict=True))
      for name, row in zip(CLASSES, scores.errors, strict=True)
    },
    'tp_errors': dict(zip(metrics.ERRORS, scores.mean_errors.tolist(), strict=True)),
    'tp_scores': dict(zip(metrics.ERRORS, credit.tolist(), strict=True)),
    'nd_score': scores.nds,
  }


def _counts(table: BoxTable, egos: np.ndarray, objects: Sequence[Objects]) -> np.ndarray:
  """bool [n]: within the class's range of the vehicle, and no two-wheeler in a rack."""
  offset = table.center[:, :2] - egos[table.sample]
  keep = np.sqrt((offset**2).sum(1)) < _LIMITS[table.label]
  wheels = np.isin(table.label, [CLASSES.index(name) for name in PARKED])
  for number, found in enumerate(objects):
    racks = np.flatnonzero(found.names == RACK)
    rows = np.flatnonzero(wheels & (table.sample == number)) if racks.size else racks
    if rows.size:
      keep[rows] &= ~_inside(table.center[rows], found, racks).any(0)
  return keep


def _inside(points: np.ndarray, found: Objects, rows: np.ndarray) -> np.ndarray:
  """bool [rows, points]: which points of the world lie in which annotated boxes."""
  inside = []
  for row in rows:
    local = (points - found.translation[row]) @ geometry.rotation_matrix(found.rotation[row])
    width, length, height = found.size[row]
    inside.append(points_in_boxes(local, np.asarray([[0, 0, -height / 2, length, width, height, 0.0]]))[0])
  return np.stack(inside)


def _keep(table: BoxTable, mask: np.ndarray) -> BoxTable:
  return BoxTable(*(None if column is None else column[mask] for column in table))


def main(argv: list[str] | None = None) -> int:
  """Prints the numbers and writes them beside the results, as `<results>.metrics.json`."""
  parser = argparse.ArgumentParser(prog='python -m jaxpapers.cmt.evaluation', description='Evaluate a submission.')
  parser.add_argument('results', help='JSON of a submission')
  parser.add_argument('--root', required=True, help='folder with samples/ and the tables')
  parser.add_argument('--version', default='v1.0-trainval', help='folder of the tables')
  parser.add_argument('--split', default='val', help='such as val or mini_val')
  args = parser.parse_args(argv)
  try:
    found = evaluate_submission(NuScenes(args.root, args.version), args.split, args.results)
  except UserError as error:
    print(error, file=sys.stderr)
    return error.exit_code
  with open(f'{args.results}.metrics.json', 'w') as out:
    json.dump(found, out, indent=2)
  print(f'mAP {found["mean_ap"]:.4f}  NDS {found["nd_score"]:.4f}')
  print('  '.join(f'{name} {value:.4f}' for name, value in found['tp_errors'].items()))
  for name, ap in found['mean_dist_aps'].items():
    errors = '  '.join(f'{error} {value:.3f}' for error, value in found['label_tp_errors'][name].items())
    print(f'{name:22s} AP {ap:.4f}  {errors}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
