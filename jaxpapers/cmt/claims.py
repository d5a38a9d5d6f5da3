"""What CMT's paper claims."""

from collections.abc import Mapping
from typing import Any

from jaxpapers.engine.claims import Above, Claim

_ZEROED = ('lidar_only_zero', 'camera_only_zero')


def _worst_gain(r: Mapping[str, Any]) -> float:
  """What masked-modal training adds to the worse of the two rows with a zeroed sensor, in points."""
  worst = {stage: min(r['mean_ap'][stage][row] for row in _ZEROED) for stage in ('masked', 'plain')}
  return 100 * (worst['masked'] - worst['plain'])


CLAIMS = (
  Claim(
    'both sensors beat one',
    'With both sensors mAP is higher than with the better one alone (synthetic scenes).',
    'results by modality; here on synthetic scenes',
    lambda r: 100 * (r['mean_ap']['masked']['both'] - max(r['mean_ap']['masked'][row] for row in _ZEROED)),
    Above(0.0),
    'points of mAP',
    picture='sensors_map',
  ),
  Claim(
    'survives a lost sensor',
    'Masked-modal training raises mAP where the more important sensor is lost (synthetic scenes).',
    'robustness results; here on synthetic scenes',
    _worst_gain,
    Above(0.0),
    'points of mAP',
    picture='sensors_map',
  ),
  Claim(
    'at no cost',
    'Masked-modal training costs less than one point of mAP with both sensors.',
    'robustness results; here at equal steps on synthetic scenes',
    lambda r: 100 * (r['mean_ap']['masked']['both'] - r['mean_ap']['plain']['both']),
    Above(-1.0),
    'points of mAP',
    picture='sensors_map',
  ),
  Claim(
    'images tell colours',
    'Objects of one shape and two colours are told apart with images better than by chance.',
    'follows from fusing camera tokens',
    lambda r: 100 * r['posts_told_apart']['both sensors'],
    Above(75.0),
    '% of posts',
    picture='look_alikes',
  ),
  Claim(
    'nuScenes mAP',
    'CMT-R50 reaches its published mAP on the validation split.',
    "the authors' table",
    None,
    Above(67.0),
    '% mAP',
    run=None,
    paper=67.9,
    needs='nuScenes and days of accelerators: configs/cmt.py:nuscenes_r50',
  ),
)
