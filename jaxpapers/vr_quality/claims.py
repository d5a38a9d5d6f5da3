"""What the paper on VR videos in the wild claims."""

from collections.abc import Mapping
from typing import Any

from jaxpapers.engine.claims import Above, Claim, Run


def _gain(r: Mapping[str, Any], model: str, other: str) -> float:
  return r['final'][model]['test/srcc'] - r['final'][other]['test/srcc']


def _crossover(r: Mapping[str, Any]) -> float:
  """How much the margin of start B over start A shrinks from 7 s to 15 s, in points of opinion."""
  (a7, a15), (b7, b15) = r['mos_by_start_and_time']
  return (b7 - a7) - (b15 - a15)


CLAIMS = (
  Claim(
    'start and time interact',
    'Where a viewer starts matters less the longer they look (synthetic observers of local distortions).',
    'subjective study; here on synthetic observers',
    _crossover,
    Above(0.0),
    'points of opinion',
    picture='start_and_time',
  ),
  Claim(
    'pooling what was seen helps',
    'Pooling by visibility agrees better with opinions than a plain mean (unseen scenes).',
    'proposed model; here on synthetic panoramas',
    lambda r: _gain(r, 'visibility', 'mean'),
    Above(0.15),
    'SRCC gained',
    picture='scatter',
  ),
  Claim(
    'spherical padding helps',
    'Padding on the sphere agrees better with opinions than zero padding (unseen scenes).',
    'proposed model; here on synthetic panoramas',
    lambda r: _gain(r, 'visibility', 'zero_padded'),
    Above(0.0),
    'SRCC gained',
    picture='scatter',
  ),
  Claim(
    'scanpaths can be predicted',
    'The scanpath model that sees the video predicts steps better than a fitted random walk.',
    'scanpath part; here on synthetic observers',
    lambda r: r['nats_per_step']['random walk (fitted covariance)'] - r['nats_per_step']['scanpath_seeing'],
    Above(0.0),
    'nats per step saved',
    run=Run('scanpath'),
    picture='scanpaths',
  ),
  Claim(
    'start and time interact, real viewers',
    'In the published opinion scores start and time interact.',
    'subjective study: analysis of variance',
    lambda r: r['final']['bootstrap']['tables/interaction'],
    Above(0.1),
    'points of opinion',
    run=Run('analysis', seeded=False),
    picture='crossover',
    data='scanpathAB_mos.csv.gz',
    needs='the published tables in DATA_DIR/vr_quality',
  ),
)
