"""What RELIANT's paper claims."""

from collections.abc import Mapping
from typing import Any

from jaxpapers.engine.claims import Above, Below, Claim, Run

_BAIL = Run('bail')


def _change(r: Mapping[str, Any], metric: str, before: str = 'vanilla', suffix: str = '') -> float:
  """Points that RELIANT adds to a metric of another student."""
  return 100 * (r['final']['reliant'][f'test/{metric}{suffix}'] - r['final'][before][f'test/{metric}'])


CLAIMS = (
  Claim(
    'fairer, parity',
    "RELIANT lowers the vanilla student's gap in statistical parity (planted bias).",
    'main results; here on a block model',
    lambda r: _change(r, 'dsp'),
    Below(0.0),
    'points of dSP',
    picture='bars',
  ),
  Claim(
    'fairer, opportunity',
    "Trained for opportunity, it lowers the vanilla student's gap there.",
    'main results; here on a block model',
    lambda r: _change(r, 'deo', suffix='_eo'),
    Below(0.0),
    'points of dEO',
    picture='bars',
  ),
  Claim(
    'as useful',
    'It costs less than one point of accuracy.',
    'main results; here on a block model',
    lambda r: _change(r, 'accuracy'),
    Above(-1.0),
    'points of accuracy',
    picture='front',
  ),
  Claim(
    'proxies help',
    'Learning the proxies lowers the gap in parity further than the penalty alone.',
    'ablation; here on a block model',
    lambda r: _change(r, 'dsp', 'penalty_only'),
    Below(0.0),
    'points of dSP',
    picture='front',
  ),
  Claim(
    'fairer, bail',
    'RELIANT lowers the gap in parity on the bail graph.',
    'main results',
    lambda r: _change(r, 'dsp'),
    Below(0.0),
    'points of dSP',
    run=_BAIL,
    picture='bars',
    data='bail.npz',
    needs='the bail graph as DATA_DIR/reliant/bail.npz',
  ),
)
