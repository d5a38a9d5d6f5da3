"""What Predictive Exit's paper claims."""

from collections.abc import Mapping
from typing import Any

from jaxpapers.engine.claims import Above, Below, Between, Claim


def _missed(results: Mapping[str, Any]) -> float:
  """Largest share of samples that miss a deadline which leaves time for an exit beside the plain network."""
  found = results['extension']
  shares = found['outcomes']['predictive, hard']['misses']
  return max(share for share, alpha in zip(shares, found['alphas'], strict=True) if alpha >= 1.25)


CLAIMS = (
  Claim(
    'forecasting skips exits',
    'The official engine runs at most 0.65 of the exits of one that looks at each, at equal calibration accuracy.',
    'central idea; here on noisy digits',
    lambda r: r['claims']['true']['exits_run_engine_over_next'],
    Below(0.65),
    'exits run, relative',
    picture='forecasts',
  ),
  Claim(
    'less computation than early exit',
    'Forecasting saves multiply-adds against classic early exit.',
    'abstract: up to 12.8 %',
    lambda r: 100 * r['headline']['computation'][1],
    Above(0.0),
    '% saved',
    paper=12.8,
    picture='policy_pareto',
  ),
  Claim(
    'less computation than no exits',
    'Forecasting saves more than half of the multiply-adds of the plain network.',
    'abstract: up to 96.2 %',
    lambda r: 100 * r['headline']['computation'][0],
    Above(50.0),
    '% saved',
    paper=96.2,
    picture='policy_pareto',
  ),
  Claim(
    'less energy than early exit',
    'With frequency scaling the forecast saves modelled energy against early exit at its safe frequency.',
    'abstract: up to 37.6 %',
    lambda r: 100 * r['headline']['energy'][1],
    Above(10.0),
    '% saved, modelled',
    paper=37.6,
    picture='policy_pareto',
  ),
  Claim(
    'no deadline is missed',
    'With hard deadlines of 1.25 times the time of the plain network and more none is missed.',
    'the schedule reserves time for the worst case',
    _missed,
    Between(-1e-9, 1e-9),
    'share of deadlines missed',
    picture='policy_exits',
  ),
)
